"""The facade: one method a verb. Each delegates to the room that does the work."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from clipperfs import activate as _activate
from clipperfs import apps as _apps
from clipperfs import cluster as _cluster
from clipperfs import publish as _publish
from clipperfs import rollout as _rollout
from clipperfs import steer as _steer
from clipperfs import view as _view
from clipperfs.activate import Outcome
from clipperfs.apps import AppOutcome
from clipperfs.audit import Filter, export, record_at
from clipperfs.cache import Cache
from clipperfs.cluster import ClusterReport
from clipperfs.collect import CollectReport, collect
from clipperfs.diff import DiffReport, diff
from clipperfs.documents import (
    AppRecord,
    ModelRecord,
    RegistryDocument,
    Verdict,
    VersionSettings,
)
from clipperfs.errors import InvalidSetting, NotFound
from clipperfs.initialise import Effort, initialise
from clipperfs.layout import Subject
from clipperfs.ledger import Head
from clipperfs.materialise import Materialised, materialise
from clipperfs.names import alias_name, app_name, model_name, version_name
from clipperfs.permissions import verb as _permissions
from clipperfs.permissions.acl import parse_principal
from clipperfs.permissions.aws import Dialect
from clipperfs.recorded import decided_since
from clipperfs.reporter import Reporter
from clipperfs.rights import Right
from clipperfs.signing import vouch as _vouch
from clipperfs.signing.vouch import SignatureView, Signed
from clipperfs.source import named_wrapper, scan_source
from clipperfs.store import Store, open_store
from clipperfs.verify import VerifyReport, verify
from clipperfs.view import ModelSummary, ModelView, VersionView
from clipperfs.workspace import Workspace, default_actor, open_cache, read_registry_document


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing or sealing did."""

    model: str
    version: str
    manifest_digest: str
    size_bytes: int
    record: ModelRecord
    was_there: bool
    """Whether the same content was there before."""
    activation: Outcome | None
    """What the activation did that was asked for, or that the model's policy wants on every publish."""


class Registry:
    """A model registry at an address. Every method may be called from any thread, and raises ``clipperfs.errors``.

    Args:
        url: A folder, or an address such as ``file:///srv/models``. Nothing is read until a method needs it.
        cache_dir: Where verified private copies go; by default the user's cache folder.
        actor: Who acts, as records name them; by default ``user@host``.
        reporter: Listens to the progress of long work.
        sign_key: File of the private key that signs records and what is published; read when it is needed.
        trusted_keys: Publishers (name → public key) who alone count, whatever the policies of models say.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        actor: str | None = None,
        reporter: Reporter | None = None,
        sign_key: str | os.PathLike[str] | None = None,
        trusted_keys: Mapping[str, str] | None = None,
    ) -> None:
        self._workspace = Workspace(
            store=open_store(url),
            cache=open_cache(cache_dir),
            actor=actor or default_actor(),
            reporter=reporter or Reporter(),
            sign_key=Path(sign_key) if sign_key is not None else None,
            trusted_keys=dict(trusted_keys) if trusted_keys is not None else None,
        )

    @classmethod
    def init(
        cls,
        url: str | os.PathLike[str],
        *,
        probe: Effort | None = None,
        single_writer: bool = False,
        **options: Any,
    ) -> Registry:
        """Create a registry, or open the one that is there; return it. Idempotent, also when two do it at once.

        See ``initialise.initialise``, also for ``probe`` and ``single_writer``.

        Raises InvalidSetting, StorageError; UnsafeStorage when more than one writer can win there; UnknownFeature when
        a newer release made what is there.
        """
        registry = cls(url, **options)
        initialise(registry.workspace, probe, single_writer=single_writer)
        registry.describe()
        return registry

    @property
    def url(self) -> str:
        """Return the registry's address in its one spelling."""
        return self.store.url

    @property
    def store(self) -> Store:
        """Return the filesystem that the registry lies on."""
        return self._workspace.store

    @property
    def cache(self) -> Cache:
        """Return the local cache of verified copies."""
        return self._workspace.cache

    @property
    def workspace(self) -> Workspace:
        """Return what the rooms behind this facade work with."""
        return self._workspace

    def describe(self) -> RegistryDocument:
        """Return ``registry.json``. Raises NotFound when there is no registry here."""
        return self._workspace.document()

    def is_there(self) -> bool:
        """Say whether the registry can be reached and is the one that was opened. Never raises NotFound."""
        try:
            return read_registry_document(self.store).registry_id == self._workspace.registry_id
        except NotFound:
            return False

    # Publishing

    def publish(
        self,
        model: str,
        version: str,
        path: str | os.PathLike[str],
        *,
        wrapper: str | None = None,
        activate: bool = False,
        reason: str | None = None,
    ) -> Published:
        """Publish a local folder or file as a version. See ``publish.publish``; then activate, if asked for.

        When the activation is refused the version stays published, and ActivationRefused is raised.
        """
        names = model_name(model), version_name(version)
        _ = self._workspace.signer  # a key that cannot be used is found before anything is written
        source = scan_source(path, wrapper)
        self._require_wrapper(names[0], source.settings)
        committed = _publish.publish(self._workspace, *names, source, reason)
        return self._published(*names, committed, activate, reason)

    def bring(
        self, model: str, version: str, path: str | os.PathLike[str], *, wrapper: str | None = None
    ) -> _publish.Brought:
        """Publish a local folder or file without a record: that needs no right on the log. See ``publish.bring``."""
        names = model_name(model), version_name(version)
        _ = self._workspace.signer
        return _publish.bring(self._workspace, *names, scan_source(path, wrapper))

    def seal(
        self,
        model: str,
        version: str,
        *,
        wrapper: str | None = None,
        activate: bool = False,
        reason: str | None = None,
    ) -> Published:
        """Adopt a plain copy: write its manifest if it came without one, and record it. See ``publish.adopt``."""
        names = model_name(model), version_name(version)
        settings = VersionSettings(wrapper=named_wrapper(wrapper)) if wrapper is not None else None
        committed = _publish.adopt(self._workspace, *names, settings, reason)
        return self._published(*names, committed, activate, reason)

    # Moving the pointer, and what moves with it

    def activate(
        self,
        model: str,
        version: str,
        *,
        expect_seq: int | None = None,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        """Make a version active after every hook has passed it. See ``activate.activate``."""
        return _activate.activate(
            self._workspace,
            model_name(model),
            version_name(version),
            expect_seq=expect_seq,
            reason=reason,
            dry_run=dry_run,
        )

    def rollback(
        self,
        model: str,
        *,
        to: str | None = None,
        expect_seq: int | None = None,
        reason: str | None = None,
        all_hooks: bool = False,
    ) -> Outcome:
        """Make the previous version (or ``to``) active again, after the cheap checks. See ``activate.roll_back``."""
        return _activate.roll_back(
            self._workspace,
            model_name(model),
            to=version_name(to) if to is not None else None,
            expect_seq=expect_seq,
            reason=reason,
            all_hooks=all_hooks,
        )

    def rollout(
        self,
        model: str,
        version: str,
        *,
        percent: float | None = None,
        shadow: bool = False,
        limits: dict[str, Any] | None = None,
        expect_seq: int | None = None,
        reason: str | None = None,
    ) -> Outcome:
        """Try a version on a share of the queries, or on copies of them; or change that. See ``rollout.roll_out``.

        Neither ``percent`` nor ``shadow``: change the limits only.
        """
        return _rollout.roll_out(
            self._workspace,
            model_name(model),
            version_name(version),
            kind="shadow" if shadow else "canary" if percent is not None else None,
            percent=percent,
            limits=limits,
            expect_seq=expect_seq,
            reason=reason,
        )

    def promote(
        self, model: str, version: str | None = None, *, expect_seq: int | None = None, reason: str | None = None
    ) -> Outcome:
        """Make the rollout's candidate (which must be ``version``, if given) active. See ``rollout.promote``."""
        return _rollout.promote(
            self._workspace,
            model_name(model),
            version=version_name(version) if version is not None else None,
            expect_seq=expect_seq,
            reason=reason,
        )

    def abort(
        self,
        model: str,
        version: str | None = None,
        *,
        candidate_seq: int | None = None,
        expect_seq: int | None = None,
        reason: str | None = None,
    ) -> Outcome:
        """End the rollout (of ``version``, if given): the active version answers all. See ``rollout.abort``."""
        return _rollout.abort(
            self._workspace,
            model_name(model),
            version=version_name(version) if version is not None else None,
            candidate_seq=candidate_seq,
            expect_seq=expect_seq,
            reason=reason,
        )

    def alias(
        self,
        model: str,
        name: str,
        version: str | None,
        *,
        expect_seq: int | None = None,
        reason: str | None = None,
    ) -> Outcome:
        """Let an alias name a version, or remove it (``version=None``). See ``steer.set_alias``."""
        return _steer.set_alias(
            self._workspace,
            model_name(model),
            alias_name(name),
            version_name(version) if version is not None else None,
            expect_seq=expect_seq,
            reason=reason,
        )

    def pin(self, model: str, version: str, *, remove: bool = False, reason: str | None = None) -> Outcome:
        """Keep a version loaded beside the active one, or stop doing so. See ``steer.set_pin``."""
        return _steer.set_pin(self._workspace, model_name(model), version_name(version), remove=remove, reason=reason)

    def policy(
        self,
        model: str,
        changes: dict[str, Any] | None = None,
        *,
        expect_seq: int | None = None,
        reason: str | None = None,
    ) -> Outcome:
        """Change parts of a model's policy, or read it when there are no changes. See ``steer.set_policy``."""
        return _steer.set_policy(self._workspace, model_name(model), changes, expect_seq=expect_seq, reason=reason)

    def retire(self, model: str, version: str, *, undo: bool = False, reason: str | None = None) -> Outcome:
        """Keep a version from being activated, or let it again. See ``steer.retire``."""
        return _steer.retire(self._workspace, model_name(model), version_name(version), undo=undo, reason=reason)

    def delete(self, model: str, version: str, *, restore: bool = False, reason: str | None = None) -> Outcome:
        """Mark a version for deletion, or take the mark away. See ``steer.delete``."""
        return _steer.delete(self._workspace, model_name(model), version_name(version), restore=restore, reason=reason)

    def collect(self, *, dry_run: bool = False, orphan_age_s: float | None = None) -> CollectReport:
        """Remove what is no longer needed. See ``collect.collect``."""
        return collect(self._workspace, dry_run=dry_run, orphan_age_s=orphan_age_s)

    # Reading

    def models(self, pattern: str | None = None) -> list[str]:
        """Return the models' names, sorted; only those that match a pattern such as ``fraud-*``, if one is given."""
        return _view.model_names(self._workspace, pattern)

    def summary(self, model: str) -> ModelSummary:
        """Return a model in a line, without looking into its versions. Raises NotFound, DamagedLog."""
        return _view.summarise_model(self._workspace, model_name(model))

    def versions(self, model: str) -> list[VersionView]:
        """Return a model's versions, complete or not. Raises NotFound."""
        return self.show(model).versions

    def show(self, model: str) -> ModelView:
        """Return a model with all its versions. Raises NotFound."""
        self.describe()
        return _view.show_model(self._workspace, model_name(model))

    def show_version(self, model: str, version: str) -> VersionView:
        """Return one version. Raises NotFound."""
        return _view.show_version(self._workspace, model_name(model), version_name(version))

    def head(self, model: str) -> Head[ModelRecord] | None:
        """Return a model's newest record, or ``None`` when nothing is recorded."""
        return self._workspace.model_ledger(model).head()

    def history(self, model: str, *, limit: int | None = None, where: Filter | None = None) -> list[ModelRecord]:
        """Return a model's records, the newest first, their chain verified as far as it is read.

        Args:
            limit: at most so many of those that pass ``where``.
            where: which records are wanted; all by default.

        Raises NotFound, DamagedLog.
        """
        return list(islice(self.records(model, where=where), limit))

    def records(self, model: str, *, where: Filter | None = None) -> Iterator[ModelRecord]:
        """Yield what :meth:`history` returns, each record as soon as it is read. Holds one at a time."""
        is_empty = True
        for head in self._workspace.model_ledger(model).records():
            is_empty = False
            if where is None or where.wants(head.record):
                yield head.record
        if is_empty:
            self.show(model)

    def record_at(self, model: str, moment: datetime) -> ModelRecord | None:
        """Return the record that was the newest at a moment, by its writer's clock. Raises NotFound, DamagedLog."""
        head = record_at(self._workspace.model_ledger(model), moment)
        if head is None:
            self.show(model)
        return head.record if head is not None else None

    def export(self) -> Iterator[tuple[Subject, Head[Any]]]:
        """Yield every record of the registry, each log from its first on. See ``audit.export``."""
        return export(self._workspace)

    def cluster(self, model: str | None = None) -> ClusterReport:
        """Return what all daemons that follow this registry serve, compared with its logs. See ``cluster.observe``."""
        return _cluster.observe(self._workspace, model, now_unix_s=time.time())

    def app_history(self, name: str, *, limit: int | None = None) -> list[AppRecord]:
        """Return an application's records, the newest first, their chain verified. Raises NotFound, DamagedLog."""
        found = [head.record for head in islice(self._workspace.app_ledger(name).records(), limit)]
        if not found and limit != 0:
            raise NotFound(f"there is no application {name}", hint="'clipperfs app list' shows them")
        return found

    def verify(self, model: str | None = None, version: str | None = None) -> VerifyReport:
        """Verify the whole registry, one model or one version. See ``verify.verify``."""
        return verify(
            self._workspace,
            model_name(model) if model is not None else None,
            version_name(version) if version is not None else None,
        )

    def diff(self, model: str, a: str, b: str, *, predictions: bool = True) -> DiffReport:
        """Compare two versions. See ``diff.diff``."""
        return diff(self._workspace, model_name(model), version_name(a), version_name(b), predictions=predictions)

    # Permissions

    def permissions(self, model: str) -> _permissions.Permissions:
        """Return who may read, publish and activate a model. See ``permissions.verb.show_permissions``."""
        return _permissions.show_permissions(self._workspace, model_name(model))

    def grant(self, model: str, right: Right, who: str, *, dry_run: bool = False) -> list[_permissions.Change]:
        """Let ``user:NAME``, ``group:NAME`` or ``everyone`` have a right. See ``permissions.verb.grant``."""
        return _permissions.grant(self._workspace, model_name(model), parse_principal(who), right, dry_run=dry_run)

    def revoke(self, model: str, right: Right, who: str, *, dry_run: bool = False) -> list[_permissions.Change]:
        """Take a right away, and those that include it. See ``permissions.verb.revoke``."""
        return _permissions.revoke(self._workspace, model_name(model), parse_principal(who), right, dry_run=dry_run)

    def held_by(self, model: str, who: str) -> Right | None:
        """Return the most that somebody may do with a model, as the storage's lists say."""
        return _permissions.held_by(self._workspace, model_name(model), parse_principal(who))

    def s3_policy(
        self, model: str, right: Right, *, principal: str | None = None, dialect: Dialect = "aws"
    ) -> dict[str, Any]:
        """Return the policy document that gives a right on a model. See ``permissions.aws.policy_document``."""
        return _permissions.s3_policy(self._workspace, model_name(model), right, principal, dialect)

    # Signatures

    def sign(self, model: str, version: str, *, sign_key: str | os.PathLike[str] | None = None) -> Signed:
        """Vouch for a version: put a signature beside it. See ``signing.vouch.sign``."""
        return _vouch.sign(self._workspace, model_name(model), version_name(version), sign_key)

    def signatures(self, model: str, version: str) -> list[SignatureView]:
        """Return the signatures that lie beside a version. See ``signing.vouch.signatures``."""
        return _vouch.signatures(self._workspace, model_name(model), version_name(version))

    def trust(self, model: str, publisher: str, key: str | None, *, reason: str | None = None) -> Outcome:
        """Let a publisher's signatures count for a model, or no longer (``key=None``). See ``steer.set_publisher``."""
        return _steer.set_publisher(self._workspace, model_name(model), publisher, key, reason=reason)

    def attributed(self, model: str, records: Iterable[ModelRecord]) -> Iterator[tuple[ModelRecord, str]]:
        """Yield each record with who wrote it: ``claimed`` or ``signed NAME``. See ``signing.vouch``."""
        return _vouch.attributed(self._workspace, model_name(model), records)

    def attributions(self, model: str, records: Iterable[ModelRecord]) -> dict[int, str]:
        """Return by number who wrote each record: see :meth:`attributed`."""
        return _vouch.attributions(self._workspace, model_name(model), records)

    def run_hooks(self, model: str, version: str) -> list[Verdict]:
        """Run every hook that an activation would run, and move nothing."""
        return _activate.run_hooks_on(self._workspace, model_name(model), version_name(version))

    def materialise(self, model: str, version: str) -> Materialised:
        """Return a verified private copy of a version in the local cache. See ``materialise.materialise``."""
        names = model_name(model), version_name(version)
        head = self.head(model)
        digest = _activate.recorded_digest(self._workspace, *names, head.record.state) if head else None
        return materialise(self._workspace, *names, digest=digest)

    # Applications

    def app_register(
        self,
        name: str,
        *,
        input_type: str,
        default_output: str,
        slo_us: int,
        link: str | None = None,
        max_concurrent: int | None = None,
        max_rate: float | None = None,
        reason: str | None = None,
    ) -> AppOutcome:
        """Create an application or change its settings. See ``apps.register``."""
        return _apps.register(
            self._workspace,
            app_name(name),
            input_type=input_type,
            default_output=default_output,
            slo_us=slo_us,
            link=model_name(link) if link is not None else None,
            max_concurrent=max_concurrent,
            max_rate=max_rate,
            reason=reason,
        )

    def app_link(self, name: str, model: str, *, reason: str | None = None) -> AppOutcome:
        """Let a model answer an application. See ``apps.link``."""
        return _apps.link(self._workspace, app_name(name), model_name(model), reason=reason)

    def app_unlink(self, name: str, *, reason: str | None = None) -> AppOutcome:
        """Let no model answer an application. See ``apps.unlink``."""
        return _apps.unlink(self._workspace, app_name(name), reason=reason)

    def app_delete(self, name: str, *, reason: str | None = None) -> AppOutcome:
        """Delete an application. See ``apps.delete``."""
        return _apps.delete(self._workspace, app_name(name), reason=reason)

    def app_show(self, name: str) -> AppRecord:
        """Return an application's newest record. Raises NotFound."""
        return _apps.show(self._workspace, app_name(name))

    def apps(self) -> list[str]:
        """Return the applications' names, sorted."""
        self.describe()
        return _apps.names(self._workspace)

    def _require_wrapper(self, model: str, settings: VersionSettings) -> None:
        """Refuse early what could never be activated. Raises InvalidSetting."""
        head = self.head(model)
        if settings.wrapper is None and (head is None or head.record.state.active is None):
            raise InvalidSetting(
                f"which wrapper loads this version of model {model}?",
                hint="say --wrapper KIND, or put a model.yaml that says 'wrapper: KIND' into the folder",
            )

    def _published(
        self, model: str, version: str, committed: _publish.Committed, activate: bool, reason: str | None
    ) -> Published:
        head = self.head(model)
        wanted = activate or (head is not None and head.record.state.policy.activation == "on-publish")
        if wanted and not activate:
            reason = f"{reason[:900]}; activated on publish" if reason else "activated on publish"
            if head is not None and (rollout := head.record.state.rollout_in_effect) is not None:
                self._workspace.reporter.note(
                    f"version {version} is not activated: the rollout of version {rollout.candidate.version} goes on"
                )
                wanted = False
            elif head is not None and (
                why := decided_since(self._workspace, head.record, version, committed.record.seq)
            ):
                self._workspace.reporter.note(f"version {version} is not activated: {why}")
                wanted = False
        activation = self.activate(model, version, reason=reason) if wanted else None
        return Published(
            model=model,
            version=version,
            manifest_digest=committed.manifest_digest,
            size_bytes=committed.manifest.size_bytes,
            record=committed.record.record,
            was_there=committed.was_there,
            activation=activation,
        )
