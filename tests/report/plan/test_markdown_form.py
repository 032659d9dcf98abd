"""Plans as Markdown. Guards report/plan/markdown_form.py."""

from plans import guest_plan, refused_guest, small_plan

from batchdiff.report.facts import PlanFacts
from batchdiff.report.plan.markdown_form import escaped, plan_markdown


def test_the_whole_report():
    plan = small_plan(guest_plan("web01"), refused_guest("old", "it is in use"))
    assert plan_markdown(PlanFacts(plan, path="fleet.plan.json")) == (
        "# 2 guests on the template /srv/images/template.qcow2 (qcow2, 8 MiB)\n"
        "\n"
        "planned 2026-01-02T03:04:05Z from /srv/fleet.yaml\n"
        "\n"
        "- comes back: **1.8 GiB** (87.5% of 2 GiB)\n"
        "- needed at the peak: **256 MiB** (free disk space, while apply runs)\n"
        "- guests to convert: **1 of 2** (1 refused)\n"
        "- originals: **kept** (the space comes back once you delete them)\n"
        "\n"
        "**Refused, skipped, or worth a look**\n"
        "\n"
        "- refuse: old: it is in use\n"
        "\n"
        "| guest | allocated | overlay | saved | share | cluster | verdict |\n"
        "| :-- | --: | --: | --: | --: | --: | :-- |\n"
        "| web01 | 2 GiB | 256 MiB | 1.8 GiB | 87.5% | 64 KiB | convert |\n"
        "| **total** | **2 GiB** | **256 MiB** | **1.8 GiB** | **87.5%** |  | **1 of 2** |\n"
        "| old | - | - | - | - | 64 KiB | refuse |\n"
        "\n"
        "`batchdiff apply` will write 1 overlay beside its guest, verify it against its original, and keep the"
        " original: the 1.8 GiB comes back only once you delete it.\n"
        "\n"
        "While apply runs, it needs up to 256 MiB of free disk space.\n"
        "\n"
        "The template will lose its write permission: a write to it would damage every overlay.\n"
        "\n"
        "Convert the guests:\n\n    batchdiff apply fleet.plan.json\n"
        "\n"
        "See how far apply has got:\n\n    batchdiff status fleet.plan.json\n"
        "\n"
        "Undo the conversion:\n\n    batchdiff restore fleet.plan.json\n"
    )


def test_names_are_text():
    assert escaped("a|b *x* _y_ <img> [l](u) #1 ~s~") == r"a\|b \*x\* \_y\_ \<img\> \[l\](u) \#1 \~s\~"
    assert escaped("run `rm a_b` now") == "run `rm a_b` now"
    assert escaped("one ` alone") == "one \\` alone"


def test_a_bar_in_a_command_has_a_backslash_only_in_a_table():
    """Outside a table, GitHub would show the backslash."""
    plan = small_plan(guest_plan("`a|b`"), refused_guest("old", "run `one | two`"))
    report = plan_markdown(PlanFacts(plan, path="fleet.plan.json"))
    assert "- refuse: old: run `one | two`\n" in report
    assert "| `a\\|b` | 2 GiB |" in report


def test_a_hostile_name_stays_in_its_cell():
    row = next(
        line
        for line in plan_markdown(PlanFacts(small_plan(guest_plan("a|b\n`x")))).splitlines()
        if line.startswith("| a")
    )
    assert row == r"| a\|b\\n\`x | 2 GiB | 256 MiB | 1.8 GiB | 87.5% | 64 KiB | convert |"


def test_what_is_stale_comes_before_the_table():
    report = plan_markdown(PlanFacts(small_plan(), stale=["/srv/x.img: it is gone"]))
    assert 0 < report.index("- /srv/x.img: it is gone") < report.index("| guest |")
