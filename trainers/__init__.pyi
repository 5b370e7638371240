# What type checkers and editors see: `__init__.py` resolves these names on first use.

from .runs.credit_record import CreditRecord as CreditRecord
from .runs.credit_record import load_credit as load_credit
