"""Who is asking: registration and login, sessions (access and refresh tokens, cookies), API tokens.

`identity` is what the rest of the API and the gateway use.
"""
