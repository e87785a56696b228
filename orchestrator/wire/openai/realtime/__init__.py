"""OpenAI's Realtime API over a WebSocket, for text, in its GA and in its beta dialect."""
