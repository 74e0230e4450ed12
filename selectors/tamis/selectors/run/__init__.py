"""One job under way: `Run`, the `Selector` protocol, its observer and its questions."""
