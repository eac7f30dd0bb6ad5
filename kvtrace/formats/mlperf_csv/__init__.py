"""The MLPerf Storage KV benchmark's CSV."""
