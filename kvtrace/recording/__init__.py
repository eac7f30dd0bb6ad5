"""Making a trace: configuration, simulation, sizing, pipeline."""
