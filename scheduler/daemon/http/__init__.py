"""The HTTP server: health, metrics, the page, the API and the shapes of its answers, who may ask."""
