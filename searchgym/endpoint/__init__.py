"""Everything that sends requests to an OpenAI-compatible server: options, client, metering, stored replies."""
