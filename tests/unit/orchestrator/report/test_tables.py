from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.report.document import Column, Report, Section, make_table
from orchestrator.report.tables import make_parquet, write_csv, write_latex, write_markdown

NASTY = "50 % of <a_b> & {c}|#1 ~^\\ $x$ `ls`"
TABLE = make_table(
    "scores",
    "Scores & more",
    ["name", Column("score", 2), "epoch"],
    [(NASTY, 80.125, 3), ("missing", None, None), ("not a number", float("nan"), 1)],
    note="A note_with underscore.",
)
REPORT = Report("sweep-1", "Sweep <1>", "context", ("finding *one*",), (), (Section("s", "S", (), (TABLE,)),))


def test_csv_and_parquet_have_every_digit_and_parquet_has_types() -> None:
    rows = list(csv.DictReader(io.StringIO(write_csv(TABLE))))
    assert [row["score"] for row in rows] == ["80.125", "", "nan"]
    assert rows[0]["name"] == NASTY
    made = make_parquet(TABLE)
    assert [str(field.type) for field in made.schema] == ["string", "double", "int64"]
    assert made["score"].to_pylist()[:2] == [80.125, None]
    assert make_parquet(make_table("empty", "", ["a"], [])).num_rows == 0


def test_no_cell_of_a_csv_is_a_formula() -> None:
    table = make_table("scores", "", ["=name", "score"], [("=1+1", -1.5), ("@SUM(A1)", None)])
    assert write_csv(table) == "'=name,score\n'=1+1,-1.5\n'@SUM(A1),\n"
    assert write_csv(make_table("empty", "", ["a", "b"], [])) == "a,b\n"


def test_latex_escapes_everything_and_uses_booktabs() -> None:
    text = write_latex(REPORT, {})
    assert r"50 \% of \textless{}a\_b\textgreater{} \& \{c\}\textbar{}\#1 " in text
    assert r"\textasciitilde{}\textasciicircum{}\textbackslash{} \$x\$ ls & 80.12 & 3 \\" in text
    assert r"\begin{tabular}{lrr}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"\caption{Scores \& more. A note\_with underscore.}" in text
    assert text.count("{") == text.count("}") - text.count(r"\}") + text.count(r"\{")


def test_markdown_keeps_names_as_they_are() -> None:
    text = write_markdown(REPORT, {}, {})
    assert r"| 50 % of \<a\_b\> & {c}\|\#1 ~^\\ $x$ `ls` | 80.12 | 3 |" in text
    assert r"- finding \*one\*" in text
    assert text.startswith("# Sweep \\<1\\>\n")


def test_long_tables_are_cut_in_texts_and_say_where_the_rest_is() -> None:
    long = make_table("long", "Long", ["n"], [(number,) for number in range(1000)])
    report = Report("x", "x", "", (), (), (Section("s", "S", (), (long,)),))
    text = write_markdown(report, {}, {"long": "tables/long.csv"})
    assert "200 of 1,000 rows. All of them: `tables/long.csv`." in text
    assert write_csv(long).count("\n") == 1001
    assert "40 of 1,000 rows." in write_latex(report, {})


@pytest.mark.slow
def test_latex_compiles_and_no_table_is_larger_than_its_page(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-base texlive-latex-recommended")
    wide = make_table("wide", "Wide", [f"column_{n}" for n in range(22)], [tuple(range(22))] * 3)
    broad = make_table("broad", "Broad", [f"column_{n}" for n in range(14)], [tuple(range(10**6, 10**6 + 14))] * 20)
    long = make_table("long", "Long", ["n", "why"], [(number, "because of that " * 9) for number in range(20)])
    many = make_table("many", "Many", ["n"], [(number,) for number in range(1000)])
    report = Report("x", "Café ± 1", "", (), (), (Section("s", "S", (), (TABLE, wide, broad, long, many)),))
    (tmp_path / "tables.tex").write_text(write_latex(report, {}), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}"
        r"\begin{document}\input{tables}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.findall("Overfull.*|Float too large.*", done.stdout) == []
    assert r"column\_21 & 21 & 21 & 21 \\" in write_latex(report, {}), "it is turned"
