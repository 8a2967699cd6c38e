"""`stratum accounts …` and `stratum keys …`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from stratum.billing.v1 import accounts_service_pb2 as pb
from stratum.billing.v1.account_pb2 import Account
from stratum.billing.v1.key_pb2 import ApiKey

from deploy import accounts as partners
from deploy.accounts import Accounts
from deploy.asking import shown, stamp
from deploy.home import Home
from deploy.installation import vouching
from deploy.terminal import DEFAULT_HOME, HomeOption, Result, console, refuse, run, wide
from services.ingest.normalize import read_time

accounts_app = typer.Typer(
    help="Partners' accounts: make one, change its plan, limits and standing, see what it used.\n\n"
    "Example: `stratum accounts create 'Acme Analytics' --email dev@acme.example`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
keys_app = typer.Typer(
    help="Partners' API keys: issue, list, rotate, revoke. A key's secret is shown once, when it is made.\n\n"
    "Example: `stratum keys issue acct_… --name 'production'`",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

BillingOption = Annotated[
    str | None,
    typer.Option("--billing", metavar="HOST:PORT", help="Where billing answers. By default that of the running stack."),
]
AccountArgument = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id, acct_….")]
KeyIdArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, key_…: see `stratum keys list`.")]
PlanOption = Annotated[str | None, typer.Option("--plan", help="api_monthly or api_annual.")]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=0, help="Units included in a period. Above it calls are served, and cost.")
]
RateOption = Annotated[int | None, typer.Option("--overage-cents", min=0, help="Cents for 1,000 units above it.")]
ClassOption = Annotated[
    str | None, typer.Option("--class", help="How fast each key may call: standard, professional, enterprise.")
]


@accounts_app.command("create")
def create_account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom it belongs to.")],
    email: Annotated[str, typer.Option("--email", help="Where notices go.")],
    plan: PlanOption = None,
    limit: LimitOption = None,
    overage_cents: RateOption = None,
    rate_class: ClassOption = None,
    home: HomeOption = DEFAULT_HOME,
    billing: BillingOption = None,
) -> None:
    """Make an account, with access to the API from now on. What is not said is what the plan says.

    Example: `stratum accounts create 'Acme Analytics' --email dev@acme.example --plan api_annual`
    """
    account = Account(
        name=name,
        email=email,
        api_access_enabled=True,
        api_plan_code=plan or "",
        api_usage_soft_limit=limit,
        api_overage_rate_cents=overage_cents,
        rate_class=rate_class or "",
    )
    made = _with(home, billing, lambda office: office.create(account))
    wide.print(partners.accounts_table([made]))
    console.print(f"Next: `stratum keys issue {made.id}`", soft_wrap=True)


@accounts_app.command("list")
def list_accounts(home: HomeOption = DEFAULT_HOME, billing: BillingOption = None) -> None:
    """Every account.

    Example: `stratum accounts list`
    """
    wide.print(partners.accounts_table(_with(home, billing, lambda office: office.all())))


@accounts_app.command("show")
def show_account(account: AccountArgument, home: HomeOption = DEFAULT_HOME, billing: BillingOption = None) -> None:
    """One account: its plan, its usage in this period, its keys.

    Example: `stratum accounts show acct_…`
    """

    async def everything(office: Accounts) -> tuple[Account, list[str], list[ApiKey]]:
        usage = await office.usage(account)
        told = [*partners.plan_lines(await office.plan(account)), *partners.usage_lines(usage)]
        return await office.get(account), told, await office.keys(account)

    found, told, keys = _with(home, billing, everything)
    wide.print(partners.accounts_table([found]))
    for line in told:
        console.print(line, soft_wrap=True)
    wide.print(partners.keys_table(keys))


@accounts_app.command("usage")
def show_usage(account: AccountArgument, home: HomeOption = DEFAULT_HOME, billing: BillingOption = None) -> None:
    """What an account has used in the present period, by key, and where that leads to.

    Example: `stratum accounts usage acct_…`
    """
    usage = _with(home, billing, lambda office: office.usage(account))
    for line in partners.usage_lines(usage):
        console.print(line, soft_wrap=True)
    wide.print(partners.usage_table(usage))


@accounts_app.command("set")
def set_account(
    account: AccountArgument,
    plan: PlanOption = None,
    limit: LimitOption = None,
    overage_cents: RateOption = None,
    rate_class: ClassOption = None,
    standing: Annotated[str | None, typer.Option("--standing", help="good, grace or suspended.")] = None,
    access: Annotated[bool | None, typer.Option("--access/--no-access", help="May it use paid methods?")] = None,
    home: HomeOption = DEFAULT_HOME,
    billing: BillingOption = None,
) -> None:
    """Change an account. It holds at the gateway within a second.

    Example: `stratum accounts set acct_… --standing suspended`
    """
    if standing is not None and standing.upper() not in Account.Standing.Value.keys()[1:]:
        refuse(f"there is no standing {standing}. Choose good, grace or suspended.")
    wanted = {
        "api_plan_code": plan,
        "api_usage_soft_limit": limit,
        "api_overage_rate_cents": overage_cents,
        "rate_class": rate_class,
        "standing": None if standing is None else Account.Standing.Value.Value(standing.upper()),
        "api_access_enabled": access,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        refuse("say what to change: --plan, --limit, --overage-cents, --class, --standing, --access or --no-access.")
    changed = Account(id=account)
    for name, value in given.items():
        setattr(changed, name, value)
    wide.print(partners.accounts_table([_with(home, billing, lambda office: office.update(changed, given))]))


@keys_app.command("issue")
def issue_key(
    account: AccountArgument,
    name: Annotated[str, typer.Option("--name", help="What it is for.")] = "key",
    test: Annotated[bool, typer.Option("--test", help="It reads a recorded evening, and is not counted.")] = False,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="What it opens; may be repeated. By default all that can be read. keys:write too: "
            "it may rotate and revoke the account's keys.",
        ),
    ] = None,
    address: Annotated[
        list[str] | None, typer.Option("--from", help="From where only: an address or a network; may be repeated.")
    ] = None,
    expires: Annotated[str | None, typer.Option("--expires", metavar="TIME", help="When it ends by itself.")] = None,
    home: HomeOption = DEFAULT_HOME,
    billing: BillingOption = None,
) -> None:
    """Make a key. Its secret is shown now and never again.

    Example: `stratum keys issue acct_… --name production --from 203.0.113.0/24`
    """
    request = pb.IssueKeyRequest(
        account_id=account,
        name=name,
        mode=ApiKey.Mode.TEST if test else ApiKey.Mode.LIVE,
        scopes=scope or [],
        allowed_addresses=address or [],
    )
    if expires is not None:
        moment = read_time(expires)
        if moment is None:
            refuse(f"{expires} is no time with a zone, such as 2026-12-31T00:00:00Z.")
        request.expires_at.CopyFrom(stamp(moment))
    answer = _with(home, billing, lambda office: office.issue(request))
    wide.print(partners.keys_table([answer.key]))
    _show_once(answer.secret)


@keys_app.command("list")
def list_keys(account: AccountArgument, home: HomeOption = DEFAULT_HOME, billing: BillingOption = None) -> None:
    """An account's keys, newest first.

    Example: `stratum keys list acct_…`
    """
    wide.print(partners.keys_table(_with(home, billing, lambda office: office.keys(account))))


@keys_app.command("rotate")
def rotate_key(
    key: KeyIdArgument,
    overlap: Annotated[
        str, typer.Option("--overlap", help="How long the old key goes on: 0s, 1h, 24h, 7d, 30d.")
    ] = "24h",
    home: HomeOption = DEFAULT_HOME,
    billing: BillingOption = None,
) -> None:
    """Make a key's successor, with the same rights; the old one goes on for a while, never beyond its own expiry.

    Example: `stratum keys rotate key_… --overlap 7d`
    """
    answer = _with(home, billing, lambda office: office.rotate(key, overlap))
    wide.print(partners.keys_table([answer.key]))
    console.print(f"The old key goes on until {shown(answer.old_key_expires_at)}.", soft_wrap=True)
    _show_once(answer.secret)


@keys_app.command("revoke")
def revoke_key(key: KeyIdArgument, home: HomeOption = DEFAULT_HOME, billing: BillingOption = None) -> None:
    """End a key now: within a second it opens nothing, and its open streams are closed.

    Example: `stratum keys revoke key_…`
    """
    wide.print(partners.keys_table([_with(home, billing, lambda office: office.revoke(key))]))


def _show_once(secret: str) -> None:
    console.print("The key, which is shown this once only:", style="bold")
    console.print(secret, soft_wrap=True)


def _with(home: Path, told: str | None, work: Callable[[Accounts], Awaitable[Result]]) -> Result:
    place = Home(home.absolute())
    living = place.living()
    if told is None and living is None:
        refuse(f"nothing runs in {home}. Start it with `stratum up`, or say with --billing where billing answers.")
    address = told or f"127.0.0.1:{living.ports.billing if living else 0}"
    try:
        ring = vouching(place)
    except LookupError as error:
        refuse(str(error))

    async def within() -> Result:
        async with Accounts(address, ring) as office:
            return await work(office)

    return run(within())
