"""The HTTP face of a deployment: REST under `/v1`, authentication, and the WebSocket gateway."""
