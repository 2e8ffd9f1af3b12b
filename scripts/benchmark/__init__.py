"""The parts of `scripts/bench`.

bench.py ── for every scenario and round ──► measure.py: one client in a process of its own ──► check.py
   │ contestants.py, scenarios.py              │ clients/*.py, or parallamr-mp itself      each row, once
   └─► report.py: table, plot                  └─► server.py, whose counters it reads

Nothing in `clients/` and `server.py` imports the rest: they run in environments and processes of their own.
"""
