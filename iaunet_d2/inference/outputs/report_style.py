"""How the report of a run looks: light and dark, wide and narrow."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5a5f66; --ground: #fff;
  --line: #e2e4e8; --tile: #f4f6f8; --bar: #2f6fb5; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e9eb; --soft: #a3a9b2; --ground: #16181b;
  --line: #33373d; --tile: #202429; --bar: #6aa9ee; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  margin: 0 auto; padding: 1.2rem; max-width: 1200px; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .2rem 0 1rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; }
.tiles div { background: var(--tile); border-radius: .5rem; padding: .6rem 1rem; flex: 1 1 7rem; }
.tiles b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.tiles span, figcaption, .note { color: var(--soft); font-size: .86rem; }
.failed b { color: var(--bad); } .failed { padding-left: 1.2rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1.2rem; }
figure { margin: 0; flex: 1 1 20rem; max-width: 36rem; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 12px; }
.bar { fill: var(--bar); } .grid { stroke: var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; }
td:nth-child(2) { white-space: normal; min-width: 9rem; }
th:nth-child(2), td:nth-child(2) { text-align: left; }
thead th { border-bottom: 2px solid var(--ink); font-size: .86rem; }
tbody tr { border-bottom: 1px solid var(--line); }
td img { display: block; max-width: 240px; max-height: 240px; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .2rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; white-space: pre-wrap; }
pre { font-size: .82rem; color: var(--soft); overflow-x: auto; }
@media (max-width: 40rem) { th, td { padding: .3rem .4rem; } td img { max-width: 110px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
"""
