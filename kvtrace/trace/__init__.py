"""The trace format: schema, reader, writer, checks."""
