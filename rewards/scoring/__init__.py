"""`launch.py score`: stored responses through a reward graph, without a run."""
