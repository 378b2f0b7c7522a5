"""Every function of ours in a host's process is come to by the injections, or is named here.

A function that is new fails this until a scenario or a way in comes to it; the tests of injections
then try a fault at each of its lines.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import gc
import sys
from pathlib import Path

import poolscope
from entries import ENTRIES, Stage
from injection import SOURCE
from peers import keep_alive
from scenarios import SCENARIOS, Player

#: What does not run in a host's process, but in a command's, or in the tests'.
ELSEWHERE = (
    *("advice", "cli", "collector", "fetching", "history", "levels", "merging", "pytest_plugin"),
    *("roster", "scrape", "table", "wire", "__main__"),
)
#: By module: the functions that nothing comes to, and why.
NOT_REACHED = {
    # asked by instrument() before anything is touched
    "__init__": ["_installed", "_unknown"],
    # only in a forked child
    "aside": ["begin.run", "call"],
    # runs where an observer has failed
    "audience": ["Listener._missed"],
    # asked by instrument() before anything is touched
    "backends.__init__": ["Backend.installed"],
    # made once by instrument()
    "backends.otel": ["OtelObserver.__init__", "OtelObserver._make"],
    # made once by instrument(); or only beyond the bound on origins
    "backends.prometheus": [
        "PrometheusObserver.__init__",
        "PrometheusObserver.describe",
        "PrometheusObserver.origin_left",
    ],
    # a way on which the relay has fallen behind: test_relay
    "backlog": ["_Sum.add", "_Sum.key", "_Sum.rows"],
    # runs before anybody's first line, in processes of its own: test_ways_in
    "bootstrap.sitecustomize": ["_Waiting.find_spec", "_attach", "_chain", "_make_way", "_refuse"],
    # only with call_sites: test_call_sites, which breaks it
    "callsites": [
        "CallSites.held",
        "CallSites.known",
        "CallSites.spelled",
        "_kind",
        "_printable",
        "_remember",
        "_root",
        "_short",
        "asking",
    ],
    # HTTP/2, suppressed requests, and checkouts that fail: test_http2, test_suppression
    "clients.urllib3": [
        "Client._came_back",
        "Client._nobody",
        "Client.never_waited",
        "Client.responded",
    ],
    # asked of frames that no scenario has: test_urllib3_causes
    "clients.urllib3_causes": ["_connect", "_error_catcher", "_is", "_make_request"],
    # asked of errors that no scenario has: test_urllib3_causes
    "clients.urllib3_errors": ["is_about_connecting"],
    # asked after a pause, or of quoted paths: test_urllib3_attach
    "clients.urllib3_records": ["_socket_path", "is_checked_out", "still_open"],
    # a connect that a signal handler cut short: test_signals_injected
    "clients.urllib3_sockets": ["Sockets.never_connected"],
    # only with span_attributes: test_spans
    "clients.urllib3_spans": [
        "TracedClient._answered",
        "TracedClient._tell_cause",
        "TracedClient.context",
        "TracedClient.headers",
        "TracedClient.request",
        "TracedClient.usable",
    ],
    # asked by instrument() before anything is touched; what it raises is for its caller
    "config": ["_count", "_seconds", "_switch", "allowed_hosts"],
    # a process ends by os.exec, os._exit or a signal: test_endings
    "departures": [
        "Departures.__init__",
        "Departures._speak",
        "Departures.depart",
        "Departures.depart.speak",
        "Departures.has_news",
        "Departures.stay",
        "_Watched.__call__",
        "_Watched.__eq__",
        "_Watched.__hash__",
        "_Watched.__reduce__",
        "_Watched.__repr__",
        "_aborts",
        "_executes",
        "_exits",
        "_is_deadly",
        "_kills",
        "_kills_group",
        "_kills_thread",
        "_raises",
    ],
    # multiprocessing's and celery's endings, in processes of their own: test_endings
    "endings": [
        "Ending.__init__",
        "Ending._finalize",
        "Ending._finish_after_threads",
        "Ending._tell_celery",
        "Ending._tell_celery.receive",
        "Ending._wait",
        "_awaited",
    ],
    # runs where something has failed, or in a way that test_drain_faults comes to
    "folding": [
        "Folding.__init__",
        "Folding._on_fault",
        "Folding._on_waited",
        "Folding.fault",
        "Folding.has_history",
    ],
    # uWSGI's: test_ways_in
    "forks": ["Forks.__init__", "Forks.ask_uwsgi.post_fork_hook"],
    # asked by a drain of idle connections, which shields it: test_hangups
    "hangups": ["_tcp_info", "has_hung_up", "silent_for"],
    # asked of a loader by others, or after a fault
    "importing": ["_Finder.__init__", "_Finder.fault", "_Loader.__getattr__"],
    # OpenTelemetry's own zero-code tools call it: test_ways_in
    "instrumentor": [
        "PoolscopeInstrumentor._instrument",
        "PoolscopeInstrumentor._uninstrument",
        "PoolscopeInstrumentor.instrumentation_dependencies",
    ],
    # abstract, or told only of what is rare; the listener shields all of it alike
    "metrics": [
        "MetricObserver.add",
        "MetricObserver.asked_for",
        "MetricObserver.faulted",
        "MetricObserver.held",
        "MetricObserver.merge",
        "MetricObserver.record",
        "MetricObserver.set",
    ],
    # does nothing
    "observers": [
        "Observer.answered",
        "Observer.asked_for",
        "Observer.busy",
        "Observer.closed",
        "Observer.created",
        "Observer.failed",
        "Observer.faulted",
        "Observer.forked",
        "Observer.found_dropped",
        "Observer.handshake",
        "Observer.held",
        "Observer.levels",
        "Observer.opened",
        "Observer.origin_left",
        "Observer.origin_seen",
        "Observer.pool_opened",
        "Observer.wait_timed_out",
        "Observer.waited",
    ],
    # only beyond the bound on origins: test_origins
    "origins": [
        "OriginState.bequeath",
        "OriginState.gives_way",
        "OriginState.sort",
        "Origins.claim",
    ],
    # asked by `check`, or on a later import
    "patcher": ["Patcher._on_import", "Patcher.waiting"],
    # runs where a hook has failed or was struck, or where somebody else has wrapped
    "patching": [
        "Hook.name",
        "Patch._again",
        "Patch._before_any",
        "Patch._is_bare",
        "Patch._struck",
        "Patch._undo",
        "_given",
    ],
    # made once; or only in a child, and at another process's end
    "process": [
        "Process.__init__",
        "Process._has_news",
        "Process._leave",
        "Process._stay",
        "_is_alone",
    ],
    # made once; or only in a child that a thread has forked
    "pulse": ["Pulse.__init__", "Pulse._is_alone", "_Asking.__init__"],
    # for reports, outside of the host's calls
    "readings": [
        "Readings.__init__",
        "Readings.include",
        "Readings.origin_left",
        "Readings.plain",
        "Readings.remember",
        "Readings.seconds",
        "Readings.stop",
    ],
    # asked by a drain of idle connections, or by copy and pickle
    "records": ["Connection.is_dead", "Connection.is_held", "_Uncopied.__reduce__"],
    # the collector is gone, or the process has forked: test_relay
    "relay": ["Relay._give_up", "Relay._leave_behind", "Relay.forked"],
    # made once; or asked for spans alone
    "scope": ["Scope.__init__", "Scope.cause"],
    # runs where something has failed
    "shield": ["is_the_hosts", "say", "say.log", "spelled"],
    # only with span_attributes: test_spans
    "spans": ["recording", "sampled"],
    # for reports, outside of the host's calls
    "summary": ["_busiest"],
}


def functions_in(path):
    """Return the functions of a module: the line where each begins, and its name in full."""
    found = {}

    def visit(node, names):
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = (*names, child.name)
            if isinstance(child, ast.FunctionDef):
                first = child.decorator_list[0].lineno if child.decorator_list else child.lineno
                found[first] = ".".join(inner)
            visit(child, inner)

    visit(ast.parse(path.read_text()), ())
    return found


@contextlib.contextmanager
def recorded(found):
    """Record which of our functions are called on this thread."""

    def note(frame, event, _argument):
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            found.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_every_function_in_a_hosts_process_is_come_to(scope, serve, world, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(poolscope._process.pulse, "_beat", lambda: None)
    called = set()
    stage = Stage(scope, serve(keep_alive), tmp_path)
    players = [Player(dataclasses.replace(world, servers=[]), name) for name in SCENARIOS]
    with recorded(called):
        for player in players:
            player.play()
        gc.collect()
        poolscope._process.pulse.stop()
        monkeypatch.setattr(poolscope._process.pulse, "wake", lambda: None)
        for name, way_in in ENTRIES.items():
            stage.again(name)
            way_in(stage)
    stage.again("taking_out_and_putting_in")
    wrong = []
    for path in sorted(Path(SOURCE).rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        if module.split(".")[0] in ELSEWHERE:
            continue
        names, excused = functions_in(path), set(NOT_REACHED.get(module, ()))
        idle = {name for line, name in names.items() if (str(path), line) not in called}
        wrong += [f"{module}: nothing comes to {name}" for name in sorted(idle - excused)]
        gone = excused - set(names.values())
        wrong += [f"{module}: {name} is not there any more" for name in sorted(gone)]
    assert not wrong, "\n".join(wrong)
