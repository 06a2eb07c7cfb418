"""The parts of ``bench_cpu``: what measures workers, the workers, one a peer, and the table of peers."""
