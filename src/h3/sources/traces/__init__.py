"""OpenTelemetry step traces: streamed from their files, blocks of events, to a step table."""
