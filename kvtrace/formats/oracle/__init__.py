"""libCacheSim: oracleGeneral traces."""
