"""Starts a real Prometheus and Alertmanager on our rules, in a hurry, and asks them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from peers import HOST, PATIENCE, eventually, free_port

DASHBOARDS = Path(__file__).parent.parent / "dashboards"
RULES = ("recording-rules.yaml", "alerting-rules.yaml")
#: What stands for five minutes in these tests.
WINDOW = "10s"
INSTALLED = all(map(shutil.which, ("prometheus", "promtool", "prometheus-alertmanager")))
REASON = "Prometheus and Alertmanager are not installed (apt: prometheus, prometheus-alertmanager)"


def hurried(rules):
    """Return rules with short windows and no patience."""
    return re.sub(r"for: \d+m", "for: 2s", rules.replace("[5m]", f"[{WINDOW}]"))


def ask(url):
    """Return a JSON answer."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return json.load(answer)


class Webhook:
    """Takes what Alertmanager sends: ``told`` has (status, alert's name, labels, annotations)."""

    def __init__(self):
        self.told = told = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.extend(
                    (one["status"], one["labels"]["alertname"], one["labels"], one["annotations"])
                    for one in json.loads(body)["alerts"]
                )
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_args):
                """Say nothing."""

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def heard(self, status):
        """Return the names of alerts that were said to be so."""
        return {name for said, name, _, _ in self.told if said == status}

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Watching:
    """Prometheus on targets (``{job: HOST:PORT}``), and Alertmanager if there is a webhook."""

    def __init__(self, directory, targets, webhook=None, rules=hurried):
        self.directory = Path(directory)
        self.url = f"http://{HOST}:{free_port()}"
        self.processes = []
        for name in RULES:
            (self.directory / name).write_text(rules((DASHBOARDS / name).read_text()))
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": list(RULES),
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [target]}]}
                for job, target in targets.items()
            ],
        }
        if webhook is not None:
            address = self._alertmanager(webhook)
            settings["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}
        self._write("prometheus.yaml", settings)
        self._start(
            "prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data",
            f"--web.listen-address={self.url.partition('//')[2]}", "--web.enable-lifecycle",
        )  # fmt: skip
        self._until_ready(self.url)

    def _alertmanager(self, webhook):
        address = f"{HOST}:{free_port()}"
        self._write(
            "alertmanager.yaml",
            {
                "route": {
                    "receiver": "test", "group_by": ["alertname"],
                    "group_wait": "1s", "group_interval": "1s",
                },
                "receivers": [{"name": "test", "webhook_configs": [{"url": webhook.url}]}],
            },
        )  # fmt: skip
        self._start(
            "prometheus-alertmanager", "--config.file=alertmanager.yaml", "--storage.path=alerts",
            f"--web.listen-address={address}", "--cluster.listen-address=",
        )  # fmt: skip
        self._until_ready(f"http://{address}")
        return address

    def _write(self, name, content):
        (self.directory / name).write_text(yaml.safe_dump(content))

    def _start(self, *command):
        log = (self.directory / f"{command[0]}.log").open("wb")
        self.processes.append(
            subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=subprocess.STDOUT)
        )
        log.close()

    def _until_ready(self, url):
        def ready():
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"{url}/-/ready", timeout=PATIENCE).status == 200
            return False

        assert eventually(ready), (self.directory / "prometheus.log").read_text()

    def query(self, expression):
        """Return ``[(labels, value)]`` as of now."""
        query = urllib.parse.urlencode({"query": expression})
        answer = ask(f"{self.url}/api/v1/query?{query}")
        return [(row["metric"], float(row["value"][1])) for row in answer["data"]["result"]]

    def firing(self):
        """Return ``{(alert's name, job)}``."""
        return {
            (one["labels"]["alertname"], one["labels"]["job"])
            for one in ask(f"{self.url}/api/v1/alerts")["data"]["alerts"]
            if one["state"] == "firing"
        }

    def until(self, condition, patience=90):
        """Wait until it holds."""
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, self.firing()
            time.sleep(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(PATIENCE)


def alerts():
    """Return the names of all alerts."""
    rules = yaml.safe_load((DASHBOARDS / "alerting-rules.yaml").read_text())
    return {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
