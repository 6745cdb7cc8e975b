"""How to test a workflow that waits for days: in memory, under a clock that the test moves."""

from expenses import Decision, Expense, Outcome, app, reimbursement

from stepwell.testing import Tester, sandbox

EXPENSE = Expense("ada@example.org", 420)


async def test_an_approved_expense_is_paid() -> None:
    async with sandbox(app) as tester:
        mails = stub_the_world(tester)
        execution = await reimbursement.trigger(EXPENSE)
        await tester.advance("2 days")
        assert await execution.status() == "listening"

        await execution.send_event("decision", Decision(approved=True, by="grace"))

        assert await execution.result() == Outcome(Decision(True, "grace"), "payment-1")
        assert mails == ["manager@example.org", "ada@example.org"]


async def test_silence_escalates_to_the_director() -> None:
    async with sandbox(app) as tester:
        mails = stub_the_world(tester)
        execution = await reimbursement.trigger(EXPENSE)
        await tester.advance("3 days")
        await tester.crash()
        await tester.advance("365 days")
        assert mails == ["manager@example.org", "director@example.org"]

        await execution.send_event("decision", Decision(approved=False, by="joan", comment="Too much."))

        assert (await execution.result()).payment is None


def stub_the_world(tester: Tester) -> list[str]:
    """Nobody is paid and no mail is sent; the list says who would have got one."""
    recipients: list[str] = []

    def mail(to: str, text: str) -> None:
        recipients.append(to)

    for name in ("ask-manager", "ask-director", "tell"):
        tester.stub(name, mail)
    tester.stub("pay", returns="payment-1")
    return recipients
