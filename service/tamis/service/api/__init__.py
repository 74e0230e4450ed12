"""The HTTP API: see `tamis.service.api.app.create_app`."""
