# What type checkers and editors see: `__init__.py` resolves these names on first use.

from .bm25.index import BM25 as BM25
from .bm25.index import open_bm25 as open_bm25
from .datasets.jsonl import JsonlCorpus as JsonlCorpus
from .datasets.jsonl import open_jsonl as open_jsonl
from .indexing.backend import Estimate as Estimate
from .indexing.backend import IndexBackend as IndexBackend
from .indexing.backend import build_index as build_index
from .indexing.backend import open_index as open_index
from .indexing.cache import cached_directory as cached_directory
from .indexing.cache import home as home
from .indexing.sealed import verify_directory as verify_directory
from .service.app import create_app as create_app
from .service.client import open_remote as open_remote
from .service.limits import Limits as Limits
from .service.server import local_service as local_service
from .service.server import serve as serve
