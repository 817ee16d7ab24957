import tarfile
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from common.errors import FleetError, SettingsError
from deploy.provision import certificates as x509
from deploy.provision import provision as fleet
from deploy.provision import store
from deploy.provision.keys import public_line
from deploy.provision.registry import read_registry
from deploy.provision.settings import FleetSettings, parse_fleet, parse_node
from deploy.provision.store import locked

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def settings(*nodes: str, **server: object) -> FleetSettings:
    named = {"names": ["fleet.example.org", "192.0.2.10"], **server}
    return parse_fleet({"server": named, "nodes": {name: {} for name in nodes}})


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "fleet"
    fleet.provision(settings("pi-1", "pc-1"), folder, NOW)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_again_changes_nothing(made: Path):
    before = contents(made)
    outcome = fleet.provision(settings("pi-1", "pc-1"), made, NOW + timedelta(days=1))
    assert contents(made) == before
    assert (outcome.added, outcome.changed, outcome.notes) == ([], [], [])


def test_a_new_node_leaves_the_others_alone(made: Path):
    before = contents(made)
    outcome = fleet.provision(settings("pi-1", "pc-1", "pi-2"), made, NOW)
    assert outcome.added == ["pi-2"]
    assert set(outcome.changed) == {"server", "pi-2"}
    after = contents(made)
    assert all(after[name] == before[name] for name in before if name.startswith("nodes/"))


def test_add_is_one_more_node_and_twice_is_refused(made: Path):
    node = parse_node("jet-1", {"hardware": "jetson"})
    assert fleet.add(made, "jet-1", node, NOW).added == ["jet-1"]
    with pytest.raises(FleetError, match="admitted already"):
        fleet.add(made, "jet-1", node, NOW)


def test_a_node_gets_no_client_that_another_one_plays(tmp_path: Path):
    nodes = {"p": {"clients": "0-3"}}
    server = {"names": ["a.org"]}
    fleet.provision(parse_fleet({"server": server, "nodes": nodes}), tmp_path, NOW)
    with pytest.raises(SettingsError, match="nodes p and q both play client 2"):
        fleet.add(tmp_path, "q", parse_node("q", {"clients": "2-5"}), NOW)
    renamed = parse_fleet({"server": server, "nodes": {"q": {"clients": "0"}}})
    with pytest.raises(SettingsError, match=r"nodes q and p both play client 0: .* revoke"):
        fleet.provision(renamed, tmp_path, NOW)
    assert list(read_registry(tmp_path).nodes) == ["p"]
    fleet.revoke(tmp_path, "p", NOW)
    assert fleet.provision(renamed, tmp_path, NOW).added == ["q"]


def test_an_admitted_node_that_the_settings_do_not_name_is_mentioned(made: Path):
    outcome = fleet.provision(settings("pi-1"), made, NOW)
    assert "pc-1" in read_registry(made).nodes
    assert any(note.startswith("pc-1 is admitted") for note in outcome.notes)


def test_modes_keep_others_out(made: Path):
    for path in [made, *made.rglob("*")]:
        mode = path.stat().st_mode & 0o777
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix in {".key", ".secret"} or path.name.endswith(".tar.gz"):
            assert mode == 0o600, path


def test_loose_modes_are_repaired(made: Path):
    key = made / "nodes/pi-1/node.key"
    key.chmod(0o644)
    made.joinpath("ca").chmod(0o755)
    fleet.provision(settings("pi-1", "pc-1"), made, NOW)
    assert key.stat().st_mode & 0o777 == 0o600


def test_no_secret_is_where_it_does_not_belong(made: Path):
    secrets = {
        str(p.relative_to(made)): p.read_bytes()
        for p in made.rglob("*")
        if p.suffix in {".key", ".secret"}
    }
    assert len(secrets) == 5  # CA, server, executor, two nodes
    for kit in ("server", "nodes/pi-1", "nodes/pc-1"):
        files = contents(made / kit)
        with tarfile.open(made / f"{kit}.tar.gz") as archive:
            for member in archive.getmembers():
                if member.isfile():
                    stream = archive.extractfile(member)
                    assert stream is not None
                    files[f"archive/{member.name}"] = stream.read()
        everything = b"\0".join(files.values())
        for where, secret in secrets.items():
            belongs = where.startswith(f"{kit}/")
            body = b"".join(secret.splitlines()[1:-1]) if b"-----" in secret else secret
            found = secret in everything or body in everything.replace(b"\n", b"")
            assert found == belongs, (where, kit)


def test_an_archive_holds_the_kit_with_its_modes(made: Path, tmp_path: Path):
    with tarfile.open(made / "nodes/pi-1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "augflower-pi-1"
    assert contents(root) == contents(made / "nodes/pi-1")
    assert (root / "node.key").stat().st_mode & 0o777 == 0o600
    assert (root / "install.sh").stat().st_mode & 0o100


def test_node_keys_are_what_flower_loads(made: Path):
    key = load_ssh_private_key((made / "nodes/pi-1/node.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP384R1)
    registered = read_registry(made).nodes["pi-1"].public_key
    assert (made / "server/nodes/pi-1.pub").read_text().strip() == registered


def test_the_certificate_names_the_server_inside_and_out(made: Path):
    names = x509.names_in((made / "server/server.crt").read_bytes())
    assert names == [
        *("fleet.example.org", "192.0.2.10"),
        *("localhost", "127.0.0.1", "::1", "control"),
    ]


def test_a_new_name_gets_a_new_certificate_with_the_same_key(made: Path):
    before = contents(made)
    changed = settings("pi-1", "pc-1", names=["new.example.org"])
    outcome = fleet.provision(changed, made, NOW)
    after = contents(made)
    assert "new.example.org" in x509.names_in(after["server/server.crt"])
    assert after["server/server.key"] == before["server/server.key"]
    assert set(outcome.changed) == {"server", "pi-1", "pc-1"}  # all must find the new name
    kit = tomllib.loads(after["nodes/pi-1/kit.toml"].decode())
    assert kit["superlink"] == "new.example.org:9092"


def test_renewal_waits_until_it_is_time_and_says_when(made: Path):
    end = fleet.renew(made, now=NOW + timedelta(days=300)).expiries["server"]
    assert end == NOW + timedelta(days=365)
    outcome = fleet.renew(made, now=NOW + timedelta(days=340))
    assert outcome.expiries["server"] == NOW + timedelta(days=340 + 365)
    assert outcome.changed == ["server"]
    assert "restart it" in outcome.notes[0]


def test_a_renewed_authority_still_vouches_for_what_it_signed(made: Path):
    before = contents(made)
    late = NOW + timedelta(days=3650 - 10)
    outcome = fleet.renew(made, now=late)
    after = contents(made)
    assert after["ca/ca.key"] == before["ca/ca.key"]
    assert x509.signed_by(before["server/server.crt"], after["ca/ca.crt"])
    assert x509.signed_by(after["server/server.crt"], before["ca/ca.crt"])
    assert outcome.expiries["ca"] == late + timedelta(days=3650)
    assert after["nodes/pi-1/ca.crt"] == after["ca/ca.crt"]
    assert any("give each device its new ca.crt" in note for note in outcome.notes)


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path):
    short = settings("pi-1", **{"ca-days": 10, "certificate-days": 365})
    assert fleet.provision(short, tmp_path, NOW).expiries["server"] == NOW + timedelta(days=10)


def test_without_its_key_the_authority_is_kept_but_cannot_renew(made: Path):
    (made / "ca/ca.key").unlink()
    assert fleet.provision(settings("pi-1", "pc-1", "pi-2"), made, NOW).added == ["pi-2"]
    with pytest.raises(FleetError, match=r"ca\.key is not there"):
        fleet.renew(made, now=NOW + timedelta(days=360))


def test_a_revoked_node_is_out_for_good(made: Path):
    key = read_registry(made).nodes["pi-1"].public_key
    outcome = fleet.revoke(made, "pi-1", NOW)
    assert outcome.removed == ["pi-1"]
    assert not list(made.glob("nodes/pi-1*"))
    assert not (made / "server/nodes/pi-1.pub").exists()
    assert [record.public_key for record in read_registry(made).revoked] == [key]
    with pytest.raises(SettingsError, match="pi-1 was revoked on 2026-05-01"):
        fleet.provision(settings("pi-1", "pc-1"), made, NOW)
    with pytest.raises(FleetError, match="no node 'pi-1'"):
        fleet.revoke(made, "pi-1", NOW)


def test_a_renewed_node_has_a_new_key_and_its_old_one_is_revoked(made: Path):
    old = read_registry(made).nodes["pi-1"].public_key
    outcome = fleet.renew_node(made, "pi-1", NOW)
    registry = read_registry(made)
    new = public_line((made / "nodes/pi-1/node.key").read_bytes(), "node.key")
    assert registry.nodes["pi-1"].public_key == new != old
    assert [record.public_key for record in registry.revoked] == [old]
    assert outcome.added == ["pi-1"]
    assert fleet.provision(settings("pi-1", "pc-1"), made, NOW).changed == []


def test_a_key_that_was_moved_away_is_not_made_again(made: Path):
    (made / "nodes/pi-1/node.key").unlink()
    before = read_registry(made)
    outcome = fleet.provision(settings("pi-1", "pc-1"), made, NOW)
    assert not (made / "nodes/pi-1/node.key").exists()
    assert read_registry(made) == before
    assert any("provision renew pi-1" in note for note in outcome.notes)


def test_an_interrupted_call_is_finished_by_the_next(tmp_path: Path, monkeypatch):
    folder, write, left = tmp_path / "fleet", store.write_atomic, 0

    def stop_after_some(path: Path, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(store, "write_atomic", stop_after_some)
    interruptions = 0
    for allowed in range(100):
        left = allowed
        try:
            outcome = fleet.provision(settings("pi-1", "pc-1"), folder, NOW)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 3
    assert outcome.notes == []
    assert len(read_registry(folder).nodes) == 2
    for name, node in read_registry(folder).nodes.items():
        key = folder / "nodes" / name / "node.key"
        assert public_line(key.read_bytes(), "key") == node.public_key
        assert (folder / "nodes" / f"{name}.tar.gz").exists()


def test_another_fleets_folder_is_refused(made: Path):
    other = parse_fleet({"name": "other", "server": {"names": ["a.org"]}})
    with pytest.raises(FleetError, match="of the fleet 'fleet', not 'other'"):
        fleet.provision(other, made, NOW)


def test_two_at_once_are_refused(made: Path):
    with locked(made), pytest.raises(FleetError, match="another process"):
        fleet.revoke(made, "pi-1", NOW)


def test_a_folder_without_a_fleet_is_named(tmp_path: Path):
    with pytest.raises(FleetError, match="holds no fleet"):
        fleet.revoke(tmp_path, "pi-1", NOW)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path):
    folder = tmp_path / "proj"
    (folder / "nodes/my-app").mkdir(parents=True)
    (folder / "nodes/my-app/index.js").write_text("x")
    folder.chmod(0o755)
    with pytest.raises(FleetError, match=r"holds other files \(nodes/my-app/index\.js\)"):
        fleet.provision(settings("pi-1"), folder, NOW)
    assert contents(folder) == {"nodes/my-app/index.js": b"x"}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_fleet_may_be_made_in_an_empty_folder(tmp_path: Path):
    folder = tmp_path / "fleet"
    (folder / "nodes/pi-1").mkdir(parents=True)  # a container engine makes what it shall mount
    (folder / ".lock").touch()
    (folder / ".fleet.json.half").touch()
    folder.chmod(0o755)
    assert fleet.provision(settings("pi-1"), folder, NOW).added == ["pi-1"]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_only_kits_of_nodes_that_were_revoked_are_deleted(made: Path):
    (made / "nodes/mine").mkdir()
    (made / "nodes/mine/notes").write_text("x")
    (made / "nodes/mine.tar.gz").write_text("x")
    fleet.revoke(made, "pi-1", NOW)
    fleet.provision(settings("pc-1"), made, NOW)
    left = {path.name for path in (made / "nodes").iterdir()}
    assert left == {"mine", "mine.tar.gz", "pc-1", "pc-1.tar.gz"}


def test_a_file_is_no_folder_for_a_fleet(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FleetError, match="is not a folder"):
        fleet.provision(settings("pi-1"), tmp_path / "file", NOW)
    with pytest.raises(FleetError, match=r"file/fleet cannot be used \(Not a directory\)"):
        fleet.provision(settings("pi-1"), tmp_path / "file/fleet", NOW)
    with pytest.raises(FleetError, match="holds no fleet"):
        fleet.renew(tmp_path / "file", now=NOW)


def test_looking_for_a_fleet_leaves_nothing_behind(tmp_path: Path):
    wrong = tmp_path / "wrong"
    for call in (fleet.renew, lambda folder: fleet.revoke(folder, "pi-1")):
        with pytest.raises(FleetError, match="holds no fleet"):
            call(wrong)
        with pytest.raises(FleetError, match="holds no fleet"):
            call(tmp_path)
    with pytest.raises(FleetError, match="holds no fleet"):
        fleet.add(wrong, "pi-1", parse_node("pi-1", {}), NOW)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_registry_is_named(made: Path):
    (made / "fleet.json").write_text('{"version": 1, "name": 3}')
    with pytest.raises(FleetError, match=r"fleet\.json is damaged at name"):
        fleet.renew(made, now=NOW)


def test_a_damaged_certificate_is_named(made: Path):
    (made / "ca/ca.crt").write_text("nothing")
    with pytest.raises(FleetError, match="damaged"):
        fleet.renew(made, now=NOW)
