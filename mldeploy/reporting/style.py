"""The style sheet of the page: one set of colours for light, one for dark."""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2430;--dim:#5f6b7a;--line:#e3e7ec;--card:#f7f9fb;
--mine:#1d63d8;--theirs:#8b95a3;--fill:#8b95a355;--area:#1d63d81f;--good:#1a7f4b;--warn:#9a6700;--bad:#c62f3b}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--fg:#e4e9f0;--dim:#98a4b3;--line:#2b333e;--card:#1a2029;
--mine:#6ea8ff;--theirs:#7c8796;--fill:#7c879655;--area:#6ea8ff26;--good:#4cc38a;--warn:#e0b252;--bad:#ff7b86}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:820px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;line-height:1.25;margin:2px 0 18px;overflow-wrap:anywhere}
h2{font-size:17px;margin:0 0 12px;overflow-wrap:anywhere}h3{font-size:14px;margin:18px 0 6px}
.kind{margin:0;color:var(--dim);text-transform:capitalize}.dim{color:var(--dim)}
section{border:1px solid var(--line);border-radius:10px;background:var(--card);padding:18px;margin:18px 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:0 0 20px}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:4px 14px 4px 0;text-align:right;white-space:nowrap;
border-bottom:1px solid var(--line);vertical-align:top}
th:first-child{text-align:left}thead th{color:var(--dim);font-weight:500}
tbody th{font-weight:400;color:var(--dim)}tr:last-child>*{border-bottom:0}
.words td{text-align:left;white-space:normal}
.words td:first-child{white-space:nowrap}code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}
figure{margin:20px 0 0}figcaption{display:flex;flex-wrap:wrap;gap:4px 16px;justify-content:space-between;
font-weight:600;font-size:14px;margin-bottom:6px}
.legend{font-weight:400;color:var(--dim);font-size:13px}.legend i{display:inline-block;width:14px;height:0;
border-top:3px solid var(--mine);vertical-align:4px;margin:0 5px 0 8px}
.legend i.theirs{border-top:10px solid var(--fill);vertical-align:0}
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:14px}
.small figure{margin:0}.small figcaption{font-weight:400;color:var(--dim);font-size:12px;margin:4px 0 0}
.badge{display:inline-block;border-radius:9px;padding:0 9px;font-size:12.5px;line-height:19px;
border:1px solid currentColor;color:var(--dim);text-transform:none;white-space:nowrap}
.badge.good{color:var(--good)}.badge.warn{color:var(--warn)}.badge.bad{color:var(--bad)}
svg{display:block;width:100%;height:auto}svg text{fill:var(--fg);font:12px system-ui,sans-serif}
svg text.dim{fill:var(--dim)}svg text.small{font-size:11px}svg .mine-text{fill:var(--mine)}
svg .theirs-text{fill:var(--dim)}
path{fill:none;stroke-width:2;stroke-linejoin:round}path.grid{stroke:var(--line);stroke-width:1}
path.mine{stroke:var(--mine)}path.theirs{stroke:var(--theirs);stroke-width:1.5}path.filled{fill:var(--fill)}
path.area{fill:var(--area)}path.mark{stroke-width:1;stroke-dasharray:3 3}
rect.track{fill:var(--line)}rect.bar{fill:var(--mine)}
rect.good{fill:var(--good)}rect.warn{fill:var(--warn)}rect.bad{fill:var(--bad)}
@media print{section{break-inside:avoid}}
"""
