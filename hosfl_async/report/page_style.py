"""How a report looks: the palette as variables, for light and dark, and one grid that becomes a column on a phone."""

from __future__ import annotations

from hosfl_async.report.panels import DARK, LIGHT

_RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
main{max-width:1240px;margin:0 auto;padding:1.4rem 1rem 3rem}
h1{font-size:1.5rem;line-height:1.25;margin:.2rem 0 .4rem}
h2{font-size:1rem;margin:0 0 .4rem}
small{color:var(--muted)}
section{margin-top:1.4rem}
.about{color:var(--muted);max-width:80ch}
.about p{margin:.2rem 0;white-space:pre-line}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(145px,1fr));gap:.7rem;margin:1.2rem 0}
.tiles div,figure,article,.scroll{background:var(--card);border:1px solid var(--faint);border-radius:10px}
.tiles div,figure,article{padding:.8rem .9rem}
article{min-width:0}
article h2{display:flex;justify-content:space-between;gap:.6rem}
article h2 i{display:inline-block;width:.8rem;height:.8rem;border-radius:3px;margin-right:.4rem}
article .about{font-size:.85rem}
article .tiles{gap:.7rem .9rem;margin:.8rem 0 0}
article .tiles div{border:0;padding:0}
.tiles dt{color:var(--muted);font-size:.85rem}
.tiles dd{margin:0;font-size:1.55rem;font-weight:650;line-height:1.25}
.tiles small{display:block;line-height:1.35}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,350px),1fr));gap:.9rem}
.stack{display:grid;gap:.9rem;align-content:start;min-width:0}
figure{margin:0;min-width:0}
figure p{margin:0}
figure svg{width:100%;height:auto;display:block}
figure svg text{paint-order:stroke;stroke:var(--card);stroke-width:2.5px;stroke-linejoin:round}
figcaption{color:var(--muted);font-size:.85rem;margin-top:.3rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem .9rem;font-size:.85rem;margin-bottom:.4rem}
.legend.runs{margin:1.1rem 0;font-size:.95rem}
.legend span{display:inline-flex;align-items:center;gap:.35rem}
.legend i{flex:none;width:.8rem;height:.8rem;border-radius:3px;border:1px solid var(--faint)}
.scroll{overflow-x:auto;width:fit-content;max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .9rem;text-align:right;border-top:1px solid var(--faint);white-space:nowrap}
thead th,thead td{border-top:0}
th[scope=row]{text-align:left;font-weight:400;color:var(--muted)}
table:not(.one) th[scope=row]{position:sticky;left:0;background:var(--card)}
th small{display:block;font-weight:400}
.scroll:has(.one){width:auto}
.one,.one thead,.one th,.one td{display:block}
.one tbody{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr))}
.one tr{display:flex;justify-content:space-between}
.one thead tr{justify-content:flex-start}
.one thead th{text-align:left}
.one thead td{display:none}
.one tbody tr{border-top:1px solid var(--faint)}
.one th,.one td{border-top:0}
.unmet h2{color:var(--run-1)}
footer{margin-top:1.6rem;color:var(--muted);font-size:.85rem}
@media print{body{background:#fff}figure,.tiles div{break-inside:avoid}}
"""


def stylesheet() -> str:
    """The page's whole CSS."""
    light, dark = (";".join(f"--{word}:{colour}" for word, colour in colours.items()) for colours in (LIGHT, DARK))
    return (
        f":root{{color-scheme:light dark;{light};--page:#f6f8f9;--card:#fff}}"
        f"@media(prefers-color-scheme:dark){{:root{{{dark};--page:#141a20;--card:#1c242c}}}}{_RULES}"
    )
