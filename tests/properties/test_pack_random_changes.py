"""Whatever is done to a tree: the layer gives what the container saw, and diff says what became of each name."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
from conformance import changes, scenario
from conformance.trees import differences
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.root

LARGE = b"large" * 2000
names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
data = st.sampled_from([b"", b"one", b"two" * 3000])

change = st.one_of(
    st.builds(changes.write, paths, data),
    st.builds(changes.patch, paths, st.sampled_from([0, 3, 100_000]), st.just(b"patched")),
    st.builds(changes.truncate, paths, st.sampled_from([0, 2, 50_000])),
    st.builds(changes.mkdir, paths, st.sampled_from([0o755, 0o700])),
    st.builds(changes.rename, paths, paths),
    st.builds(changes.rename, paths, paths),
    st.builds(changes.exchange, paths, paths),
    st.builds(changes.unlink, paths),
    st.builds(changes.rmdir, paths),
    st.builds(changes.rmtree, paths),
    st.builds(changes.link, paths, paths),
    st.builds(changes.symlink, st.just("nowhere"), paths),
    st.builds(changes.chmod, paths, st.sampled_from([0o600, 0o711, 0o4755])),
    st.builds(changes.utime, paths, st.integers(0, 2**32 * 10**9)),
    st.builds(changes.setxattr, paths, st.just("user.k"), st.binary(max_size=5)),
    st.builds(changes.mknod, paths, st.sampled_from([stat.S_IFIFO | 0o600, stat.S_IFSOCK | 0o600]), st.just(0)),
)


def build_lower(root: Path) -> None:
    """Small and deep: most random paths hit something."""
    changes.apply_all(
        [
            *(changes.mkdir(path) for path in ("/a", "/a/a", "/a/b", "/b", "/b/b", "/b/b/c")),
            changes.write("/a/a/a", LARGE),
            changes.write("/a/a/b", b"small"),
            changes.link("/a/a/a", "/b/a"),
            changes.write("/a/c", b"c"),
            changes.symlink("a", "/b/c"),
            changes.write("/b/b/a", b""),
            changes.write("/c", LARGE),
        ],
        root,
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(change, min_size=1, max_size=14))
def test_any_changes(played: list[changes.Change]) -> None:
    with tempfile.TemporaryDirectory() as place:
        outcome = scenario.run(Path(place), build_lower, played)
    assert [overlay for overlay, _ in outcome.errnos] == [plain for _, plain in outcome.errnos]
    assert differences(scenario.seen_as(outcome), outcome.applied) == []
    plain = {path: node._replace(mtime_ns=0, links=frozenset()) for path, node in outcome.plain.items()}
    merged = {path: node._replace(mtime_ns=0, links=frozenset()) for path, node in outcome.merged.items()}
    assert differences(plain, merged) == []
    scenario.check_diff(outcome)
