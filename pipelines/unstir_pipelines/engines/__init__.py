"""Where jobs run; a result does not depend on it: ``local`` (in the process or in spawned workers), ``dask`` (any distributed cluster)."""
