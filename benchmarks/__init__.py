"""Measurements: load side by side with a real etcd, and micro timings of hot functions (`python -m benchmarks`).

Development only; nothing under `src/` imports it.
"""
