"""CacheBench: key-value traces of CacheLib."""
