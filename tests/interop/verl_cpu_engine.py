import verl_cpu

verl_cpu.install()
