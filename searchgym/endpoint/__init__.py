"""Whatever asks an OpenAI-compatible server: client, options, metering, stored answers."""
