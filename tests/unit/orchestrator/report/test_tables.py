from __future__ import annotations

import csv
import io

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
    assert "200 of 1,000 rows." in write_latex(report, {})
