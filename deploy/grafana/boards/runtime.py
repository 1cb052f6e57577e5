"""Runtime: the processes themselves, what they hold, and how their calls end."""

from __future__ import annotations

from deploy.grafana.boards.board import Board, Row
from deploy.grafana.boards.panels import About, Query, events, lines, number, rows, states
from deploy.grafana.boards.promql import HERE, JOB, TIER, latest, quantile, rate

PROCESSES = Row(
    "Processes",
    (
        lines(
            About("Processor", "Cores that each tier's process uses; its limit is in docker-compose.yml.", "short", 8),
            Query(rate("process_cpu_seconds_total", JOB, "job"), "{{job}}"),
        ),
        lines(
            About("Memory", "Resident memory of each tier's process; at its limit it is killed.", "bytes", 8),
            Query(latest("process_resident_memory_bytes", JOB, "job"), "{{job}}"),
        ),
        lines(
            About(
                "Garbage collections",
                "Runs of Python's collector per second; generation 2 looks at everything.",
                "ops",
                8,
            ),
            Query(rate("python_gc_collections_total", JOB, "job, generation"), "{{job}} generation {{generation}}"),
        ),
        lines(
            About("Open files", "Sockets and files that each process holds; a steady rise is a leak.", "short", 8),
            Query(latest("process_open_fds", JOB, "job"), "{{job}}"),
        ),
        lines(
            About("Up for", "Since each process started; a drop to 0 is a restart.", "dtdurations", 8),
            Query(f"time() - max by (job) (process_start_time_seconds{{{JOB}}})", "{{job}}"),
        ),
        lines(
            About("Estimated power", "What the device spends on requests, from the powers in its settings.", "watt", 8),
            Query(rate("offramp_energy_joules_total", 'model=~"$model"', "tier"), "{{tier}}"),
        ),
    ),
)

HOLDING = Row(
    "What they hold",
    (
        lines(
            About("In flight", "Requests that each tier holds now, those that wait included.", "short", 8),
            Query(latest("offramp_in_flight", TIER, "tier"), "{{tier}}"),
        ),
        lines(
            About("Runs waiting", "Runs of a segment that wait for a worker, now.", "short", 8),
            Query(latest("offramp_queue_length", TIER, "tier"), "{{tier}}"),
        ),
        events(
            About("Turned away", "Requests refused at the door, before any work.", "reqps", 8),
            Query(rate("offramp_rejected_total", TIER, "tier, reason"), "{{tier}} {{reason}}"),
        ),
    ),
)

CALLS = Row(
    "Calls",
    (
        lines(
            About("Calls by code", "Calls that each tier's server ended, by gRPC status.", "reqps", 8),
            Query(f"{rate('grpc_server_handled_total', JOB, 'job, grpc_code')} > 0", "{{job}} {{grpc_code}}"),
        ),
        lines(
            About("Calls to the tier above", "Calls that each tier made upwards, by gRPC status.", "reqps", 8),
            Query(f"{rate('grpc_client_handled_total', JOB, 'job, grpc_code')} > 0", "{{job}} {{grpc_code}}"),
        ),
        states(
            About(
                "Way to the tier above", "Whether calls go up; while it fails, tiers answer on their own.", "short", 8
            ),
            Query(f"max by (tier) (offramp_upstream_state{{{TIER}}})", "{{tier}}"),
            {0: ("open", "green"), 1: ("being tried", "orange"), 2: ("failing", "red")},
        ),
        lines(
            About("95th percentile by method", "One call in twenty of each method takes longer.", "s", 12),
            Query(quantile(0.95, "grpc_server_handling_seconds", JOB, "job, grpc_method"), "{{job}} {{grpc_method}}"),
        ),
        lines(
            About(
                "Messages",
                "Messages that each tier's server received and sent; a stream has many in a call.",
                "ops",
                12,
            ),
            Query(rate("grpc_server_msg_received_total", JOB, "job"), "{{job}} received"),
            Query(rate("grpc_server_msg_sent_total", JOB, "job"), "{{job}} sent"),
        ),
    ),
)

STARTED = Row(
    "What was started",
    (
        number(
            About("Longest warm-up", "From loading a model until it was ready.", "s", 6, 6),
            Query(f"max(offramp_warmup_seconds{{{HERE}}})"),
        ),
        lines(
            About("Scrapes", "How long Prometheus waits for each tier's metrics; it gives up after 4 s.", "s", 6, 6),
            Query(f"scrape_duration_seconds{{{JOB}}}", "{{job}}"),
        ),
        rows(
            About("Releases", "The release of Offramp at each tier; they should agree.", "short", 12, 6),
            Query(latest("offramp_build_info", JOB, "job, version")),
        ),
    ),
)

BOARD = Board(
    "runtime",
    "Runtime",
    "How are the processes themselves, what do they hold, and how do their calls end?",
    (PROCESSES, HOLDING, CALLS, STARTED),
)
