"""Adapters to the outside world: Kubernetes, clouds, prices, metrics, and the sandbox that emulates them all."""
