"""Real processes for tests, benchmarks and comparisons: servers, a command line client, gRPC stubs.

Development only: nothing under `src/` imports it. Import it from the root of the checkout.
"""
