"""The `overspill` command. Commands import their parts when they are run, so that `--help` stays quick."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scheduler.cli import aiops, clusters, incidents, model, policy
from scheduler.cli.output import CommandError, debugging, print_error
from scheduler.model.errors import InvalidObjectError, OverspillError

app = typer.Typer(
    name="overspill",
    help="Multi-cloud federation and bursting scheduler for AI workloads on Kubernetes.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
app.add_typer(policy.app, name="policy")
app.add_typer(clusters.app, name="clusters")
app.add_typer(aiops.app, name="aiops")
app.add_typer(model.app, name="model")
app.add_typer(incidents.app, name="incidents")

Url = Annotated[str, typer.Option("--url", help="Where the daemon listens.", envvar="OVERSPILL_URL")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_DEFAULT_URL = "http://127.0.0.1:8080"


class Mode(StrEnum):
    SHADOW = "shadow"
    ACTIVE = "active"


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"overspill {version('overspill')}")
        except PackageNotFoundError:
            print("overspill (not installed)")
        raise typer.Exit


@app.callback()
def overspill(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("run")
def run_command(
    config: Annotated[Path, typer.Option("--config", help="The federation file.")],
    policies: Annotated[list[Path], typer.Option("--policies", help="A folder of policy files; several add up.")],
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="Overrides the federation file's mode; shadow writes nothing.")
    ] = None,
) -> int:
    """Run the daemon: watch, place, burst, return."""
    from scheduler.cli import run

    return run.run(config, policies, mode=mode.value if mode else None)


@app.command("sandbox", short_help="Start an emulated federation on loopback ports.")
def sandbox_command(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where its kubeconfigs, federation file and clock are written.")
    ] = Path("sandbox"),
    speed: Annotated[
        float, typer.Option("--speed", min=0.001, max=100_000, help="Virtual seconds in a second.")
    ] = 60.0,
    seed: Annotated[int, typer.Option("--seed", help="Of delays, shortages and spot reclaims.")] = 0,
    scenario: Annotated[
        Path | None, typer.Option("--scenario", help="Clusters, pools and faults; default: one on-prem, three clouds.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Start an emulated federation: a hub and its members, each a Kubernetes API on a loopback port."""
    from scheduler.cli import sandbox

    return sandbox.run(directory, speed=speed, seed=seed, scenario=scenario, as_json=as_json)


@app.command("demo", short_help="Sandbox, daemon and real jobs together.")
def demo_command(
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="CSV (or .csv.gz) of arrivals to replay: arrival_s,duration_s,num_gpus,vc."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="How many jobs (default: 60 drawn, or the whole trace).")
    ] = None,
    first: Annotated[int, typer.Option("--from", min=0, help="Rows of the trace to leave out first.")] = 0,
    speed: Annotated[
        float,
        typer.Option(
            "--speed", min=0.001, max=100_000, help="Virtual seconds in a second, between leaps over quiet time."
        ),
    ] = 240.0,
    seed: Annotated[int, typer.Option("--seed", help="Of drawn jobs, hints and the sandbox.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Progress on stderr; the last line of stdout is one JSON object.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the state folder (logs, history, kubeconfigs).")] = False,
    skip: Annotated[
        bool | None,
        typer.Option("--skip/--no-skip", help="Leap over quiet time (default: for a trace, not for drawn jobs)."),
    ] = None,
    policies: Annotated[
        Path | None, typer.Option("--policies", help="Your own policy folder instead of the demo's.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Give up after that many seconds.")] = 900.0,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write an HTML page with the course of the served model.")
    ] = None,
) -> int:
    """Sandbox, daemon and real jobs together: place, burst, return, explain.

    In the summary, bursts are workloads that ran on capacity bought for them, and returns are bought nodes that were
    given back. Exits 0 only when every job finished exactly once, no invariant was broken, and (of 40 drawn jobs or
    more) the served model was out of its SLO in 1 % of its minutes at most, and short of capacity for 30 s at most.
    """
    from scheduler.cli.demo import DemoOptions, run

    return run(
        DemoOptions(
            trace=trace,
            jobs=jobs,
            first=first,
            speed=speed,
            seed=seed,
            as_json=as_json,
            keep=keep,
            skip=trace is not None if skip is None else skip,
            policies=policies,
            timeout_seconds=timeout,
            report=report,
        )
    )


@app.command("status")
def status_command(
    url: Url = _DEFAULT_URL,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")] = False,
) -> int:
    """Clusters, pools, queues, budgets and spend of a running daemon."""
    from scheduler.cli import status

    return status.run(url, as_json=as_json, watch=watch)


@app.command("explain", short_help="Why a workload is where it is.")
def explain_command(
    workload: Annotated[str, typer.Argument(help="NAME, NAMESPACE/NAME or KIND/NAMESPACE/NAME.")],
    url: Url = _DEFAULT_URL,
    as_json: AsJson = False,
) -> int:
    """Why a workload is where it is: the decision, its alternatives, and why the rest did not fit."""
    from scheduler.cli import explain

    return explain.run(workload, url, as_json=as_json)


@app.command("doctor", short_help="Check credentials, permissions, clouds, prices, metrics.")
def doctor_command(
    config: Annotated[Path, typer.Option("--config", help="The federation file.")],
    policies: Annotated[
        list[Path] | None, typer.Option("--policies", help="A folder of policy files; several add up.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="Overrides the federation file's mode; shadow needs less.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check that hub, members, clouds, prices, metrics, history and policies can be used, and say how to mend what
    cannot. Changes nothing. Exits 1 when anything fails that is needed.
    """
    from scheduler.cli import doctor

    return doctor.run(config, policies or (), mode=mode.value if mode else None, as_json=as_json)


@app.command("pause", short_help="Stop all remediation, or the buying of capacity.")
def pause_command(
    config: Annotated[Path, typer.Option("--config", help="The federation file: how the hub is reached.")],
    bursting: Annotated[bool, typer.Option("--bursting", help="Instead: buy nothing.")] = False,
) -> int:
    """Have the daemon remedy nothing anywhere, not even go on with what it has begun, until it is resumed."""
    from scheduler.cli import switches

    return switches.throw(config, paused=True, bursting=bursting)


@app.command("resume", short_help="Take a pause back.")
def resume_command(
    config: Annotated[Path, typer.Option("--config", help="The federation file: how the hub is reached.")],
    bursting: Annotated[bool, typer.Option("--bursting", help="Instead: buy again.")] = False,
) -> int:
    """Let the daemon remedy again."""
    from scheduler.cli import switches

    return switches.throw(config, paused=False, bursting=bursting)


@app.command("prices", short_help="What a node of each pool costs, and who says so.")
def prices_command(url: Url = _DEFAULT_URL, config: clusters.Config = None, as_json: AsJson = False) -> int:
    """What a node of each pool costs, who says so, how old that is; and what traffic costs."""
    from scheduler.cli import prices

    return prices.run(url, config, as_json=as_json)


@app.command("metrics", short_help="What was read of the members' metrics.")
def metrics_command(
    cluster: Annotated[str, typer.Option("--cluster", help="Only of this member.")] = "",
    metric: Annotated[str, typer.Option("--metric", help="Only this one, every series of it.")] = "",
    url: Url = _DEFAULT_URL,
    config: clusters.Config = None,
    as_json: AsJson = False,
) -> int:
    """The latest reading of each metric on each member, with its age, its source, or why there is none."""
    from scheduler.cli import metrics

    return metrics.run(cluster, metric, url, config, as_json=as_json)


@app.command("simulate", short_help="Replay a log of jobs under policies and baselines.")
def simulate_command(
    federation: Annotated[
        Path, typer.Option("--federation", "--config", help="The federation file: clusters, pools, prices.")
    ],
    policies: Annotated[list[Path], typer.Option("--policies", help="A folder of policy files; several are compared.")],
    trace: Annotated[
        Path | None, typer.Option("--trace", help="A log of jobs, CSV or .csv.gz (docs/simulate.md: formats).")
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option("--requests", help="Instead: a log of requests, replayed against ServingSLOs."),
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Instead of --trace: the jobs that the daemon's history holds.")
    ] = False,
    since: Annotated[str, typer.Option("--since", help="How far back with --history, such as 30d or 12h.")] = "30d",
    baseline: Annotated[
        list[str] | None, typer.Option("--baseline", help="What to compare with, by name, or all; repeatable.")
    ] = None,
    bound: Annotated[bool, typer.Option("--bound", help="Also the clairvoyant lower bound.")] = False,
    seed: Annotated[
        list[int] | None, typer.Option("--seed", help="Of delays, shortages and reclaims; repeatable. Default: 0.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Progress on stderr; the last line of stdout is one JSON object.")
    ] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Write one self-contained HTML file.")] = None,
    nodes: Annotated[
        list[str] | None,
        typer.Option("--nodes", help="CLUSTER/POOL=N: how many nodes an owned pool has. Default: maxNodes, minNodes."),
    ] = None,
    first_day: Annotated[float, typer.Option("--from", min=0, help="Day of the trace to begin at.")] = 0.0,
    days: Annotated[float | None, typer.Option("--days", min=0.001, help="How many days of it.")] = None,
    queues: Annotated[
        list[str] | None, typer.Option("--queue", help="Only jobs of this queue; repeatable. Default: all.")
    ] = None,
    value_usd_per_gpu_hour: Annotated[
        float | None,
        typer.Option(
            "--value-usd-per-gpu-hour",
            min=0,
            max=1e6,
            help="What time until a job is done is worth. Default: the first set's valueOfTime, else 1.",
        ),
    ] = None,
    value_usd_per_hour: Annotated[
        float | None, typer.Option("--value-usd-per-hour", min=0, max=1e6, help="The same, for each job.")
    ] = None,
    gather: Annotated[
        float, typer.Option("--gather", min=0, max=3600, help="Seconds of events that are decided on together.")
    ] = 0.0,
    slice_seconds: Annotated[
        float | None,
        typer.Option("--slice", min=1, max=86400, help="Decide every so many seconds, anew on all: runs may move."),
    ] = None,
    start_seconds: Annotated[
        float, typer.Option("--start-seconds", min=0, max=86400, help="From binding to running.")
    ] = 15.0,
    restart_seconds: Annotated[
        float, typer.Option("--restart-seconds", min=0, max=86400, help="Lost at each restart, beyond work.")
    ] = 60.0,
    spot_reclaims_per_hour: Annotated[
        float, typer.Option("--spot-reclaims-per-hour", min=0, max=3600, help="Of each spot node.")
    ] = 0.03,
    pool_reclaims: Annotated[
        list[str] | None, typer.Option("--pool-reclaims", help="CLUSTER/POOL=RATE: instead, of one pool; repeatable.")
    ] = None,
    provisioning_spread: Annotated[
        float, typer.Option("--provisioning-spread", min=0, max=3, help="Log-normal, about the pool's own time.")
    ] = 0.25,
    shortage_chance: Annotated[
        float, typer.Option("--shortage-chance", min=0, max=1, help="That an ordered node is not delivered.")
    ] = 0.0,
    shortage_seconds: Annotated[
        float, typer.Option("--shortage-seconds", min=1, max=604800, help="How long a pool is short then.")
    ] = 1800.0,
    hint_spread: Annotated[
        float, typer.Option("--hint-spread", min=0, max=5, help="Log-normal error of users' run times; 0: exact.")
    ] = 0.0,
    hints: Annotated[bool, typer.Option("--hints/--no-hints", help="Whether users tell run times at all.")] = True,
    leave_out_impossible: Annotated[
        bool, typer.Option("--leave-out-impossible", help="Go on without jobs that fit nowhere.")
    ] = False,
    peak_replicas: Annotated[
        int, typer.Option("--peak-replicas", min=1, max=2000, help="--requests: how many its peak is scaled to need.")
    ] = 50,
    gpu_speed: Annotated[
        list[str] | None, typer.Option("--gpu-speed", help="--requests: MODEL=FACTOR, against the recorded workers.")
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option("--region", help="--requests: NAME=SHARE of the clients; repeatable.")
    ] = None,
    client_latency: Annotated[
        list[str] | None, typer.Option("--client-latency", help="--requests: REGION:CLUSTER=SECONDS; repeatable.")
    ] = None,
    lose: Annotated[
        list[str] | None, typer.Option("--lose", help="--requests: CLUSTER=SECOND at which it is lost; repeatable.")
    ] = None,
    load_seconds: Annotated[
        float, typer.Option("--load-seconds", min=0, max=86400, help="--requests: from a node to a ready replica.")
    ] = 45.0,
    service_seconds: Annotated[
        float, typer.Option("--service-seconds", min=0.001, max=86400, help="--requests: where the log does not say.")
    ] = 20.0,
    cycle_seconds: Annotated[
        float, typer.Option("--cycle-seconds", min=1, max=3600, help="--requests: from one decision to the next.")
    ] = 30.0,
) -> int:
    """Replay a log of jobs through the daemon's own engine on virtual time, under policies and baselines, and compare.

    Exits 0 when every replay came to its end, 1 when one did not, 2 for input that cannot be used.
    """
    from policies.durations import parse_duration

    if requests is not None:
        from scheduler.cli import simulate_requests

        if trace is not None or history:
            raise CommandError("give either --requests FILE, --trace FILE or --history", exit_code=2)
        return simulate_requests.run(
            simulate_requests.RequestOptions(
                federation=federation,
                policies=tuple(policies),
                requests=requests,
                baselines=tuple(baseline or ()),
                seeds=tuple(seed or (0,)),
                first_day=first_day,
                days=days,
                nodes=tuple(nodes or ()),
                peak_replicas=peak_replicas,
                gpu_speeds=tuple(gpu_speed or ()),
                regions=tuple(region or ()),
                client_latencies=tuple(client_latency or ()),
                lose=tuple(lose or ()),
                load_seconds=load_seconds,
                service_seconds=service_seconds,
                cycle_seconds=cycle_seconds,
                spread=provisioning_spread,
                spot_reclaims_per_hour=spot_reclaims_per_hour,
                as_json=as_json,
                report=report,
            )
        )
    from scheduler.cli import simulate
    from scheduler.simulate.assumptions import Assumptions

    return simulate.run(
        simulate.SimulateOptions(
            federation=federation,
            policies=tuple(policies),
            trace=trace,
            history=history,
            since_seconds=parse_duration(since),
            baselines=tuple(baseline or ()),
            bound=bound,
            seeds=tuple(seed or (0,)),
            first_day=first_day,
            days=days,
            queues=tuple(queues or ()),
            nodes=tuple(nodes or ()),
            usd_per_gpu_hour=value_usd_per_gpu_hour,
            usd_per_hour=value_usd_per_hour,
            gather_seconds=gather,
            slice_seconds=slice_seconds,
            pool_reclaims=tuple(pool_reclaims or ()),
            assumptions=Assumptions(
                start_seconds=start_seconds,
                restart_seconds=restart_seconds,
                spot_reclaims_per_hour=spot_reclaims_per_hour,
                provisioning_spread=provisioning_spread,
                shortage_chance=shortage_chance,
                shortage_seconds=shortage_seconds,
                hint_spread=hint_spread,
                hints=hints,
            ),
            leave_out_impossible=leave_out_impossible,
            as_json=as_json,
            report=report,
        )
    )


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. Whatever goes wrong is one line on standard error."""
    try:
        status = app(args=arguments, prog_name="overspill", standalone_mode=False)
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        return 1
    except Exception as error:  # noqa: BLE001  (the outermost edge: a person reads one line, not a traceback)
        if debugging():
            traceback.print_exc()
        message, exit_code = _failure(_innermost(error))
        print_error(message)
        return exit_code
    return status if isinstance(status, int) else 0


def _innermost(error: BaseException) -> BaseException:
    """The first failure of a task group, or the failure itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _failure(error: BaseException) -> tuple[str, int]:
    match error:
        case CommandError():
            return str(error), error.exit_code
        case InvalidObjectError():
            first, *rest = str(error).splitlines() or [""]
            return first + (f" (and {len(rest)} more)" if rest else ""), 2
        case OverspillError():
            return str(error), 1
        case typer.TyperException():
            return f"{error.format_message()} (see `overspill --help`)", error.exit_code
        case OSError():
            return str(error), 1
    return f"internal error: {type(error).__name__}: {error} (OVERSPILL_DEBUG=1 shows where)", 1


def main() -> None:
    """The console entry."""
    raise SystemExit(invoke())


if __name__ == "__main__":
    main()
