"""``strategy: share``: a guest that gets no overlay, so nothing about overlays matters to it."""

import pytest
from manifest_texts import guests, make, problems, raw, read

from batchdiff.choices import Strategy
from batchdiff.manifest.selection import read_selected

SHARE = "strategy: share\n"
OWN = ", strategy: share"


def strategies(text: str) -> dict[str, str]:
    return {guest.name: guest.strategy.value for guest in read(text).guests}


def test_a_guest_has_its_own_strategy_or_the_manifests(folder):
    items = raw("clones/a.img", OWN), raw("clones/b.img"), raw("clones/d.img", ", strategy: overlay")
    make("clones/d.img")
    assert strategies(guests(*items)) == {"a": "share", "b": "overlay", "d": "overlay"}
    assert strategies(guests(*items, tail=SHARE)) == {"a": "share", "b": "share", "d": "overlay"}
    assert strategies(guests("{glob: 'clones/*.img', format: raw}", tail=SHARE)) == dict.fromkeys(
        ["a", "b", "d"], "share"
    )


def test_a_wrong_strategy_is_the_only_problem_reported(folder):
    (problem,) = problems(guests(raw("clones/a.img"), tail="strategy: shared\n"))
    assert problem.startswith("m.yaml:5: strategy: ")
    assert 'did you mean "share"?' in problem
    (problem,) = problems(guests(raw("clones/a.img", ", strategy: reflink")))
    assert problem.startswith("m.yaml:4: guests[0].strategy: ")


@pytest.mark.parametrize("tail", ["", SHARE])
@pytest.mark.parametrize("key", ["overlay: {cluster_size: 4k}", "overlay: {path: other.qcow2}", "rethin: true"])
def test_keys_for_overlays_do_not_go_with_it(folder, key, tail):
    own = "" if tail else OWN
    (problem,) = problems(guests(raw("clones/a.img", f", {key}{own}"), tail=tail))
    name = key.partition(":")[0]
    assert problem.startswith(f"m.yaml:4: guests[0].{name}: needs `strategy: overlay`, because")
    assert f"leave {name} out" in problem


def test_defaults_for_overlays_do(folder):
    defaults = "defaults: {overlay: {path: same, cluster_size: 4k}, rethin: true}\n"
    (guest,) = read(guests(raw("clones/a.img"), tail=defaults + SHARE)).guests
    assert guest.strategy is Strategy.SHARE
    assert guest.options.cluster_size == 4096
    assert not guest.in_place
    assert not guest.rethin


def test_files_with_the_name_of_its_overlay_do_not_matter(folder):
    make("clones/a.qcow2")
    assert "already exists" in problems(guests(raw("clones/a.img")))[0]
    manifest = read(guests(raw("clones/a.img"), tail=SHARE))
    assert manifest.guests == read_selected("m.yaml", ["a"]).guests
    # Nor does a glob leave such a file out.
    both = guests(raw("clones/a.img"), "{glob: clones/a.qcow2, format: qcow2}", tail=SHARE)
    assert set(strategies(both)) == {"clones/a.img", "clones/a.qcow2"}
    # Two guests may have the same one.
    make("clones/a.raw")
    assert len(read(guests("{glob: 'clones/a.*', format: raw}", tail=SHARE)).guests) == 3
