/*-------------------------------------------------------------------------
 *
 * ask.c
 *	  Asking Mailchimp now, from a function that somebody called.
 *
 * Such a call waits inside the caller's transaction, so it has an end: all of
 * its requests together may take 60 s. It can be cancelled at any time. It
 * takes slots like the engine, but is not bulk: the slot that bulk work leaves
 * is there for people who wait.
 *
 * A request that was given up may go on at Mailchimp, and counts there. Its
 * slot stays taken for that time, also when a cancel or an error ends
 * the call, or the process ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "ask.h"
#include "slot.h"

#define ASK_LIMIT_MS (60 * 1000)
#define SLOT_LOOK_MS 200

/* A call may run at Mailchimp for 120 s (API 3.0, rate limits and timeouts). */
#define MAY_STILL_RUN_MS (130 * 1000)

TimestampTz
mc_ask_deadline(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ASK_LIMIT_MS);
}

static long
remaining_ms(TimestampTz deadline)
{
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
}

/* Sleeps until something sets our latch, at most so long. */
static void
doze(long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static int
wait_for_slot(const McConnection *connection, TimestampTz deadline)
{
	for (;;)
	{
		int slot = mc_slot_take(connection->slot_user, connection->max_connections, 0);
		long left = remaining_ms(deadline);

		if (slot != MC_NO_SLOT)
			return slot;
		if (left <= 0)
			ereport(ERROR, (errcode(ERRCODE_TOO_MANY_CONNECTIONS),
							errmsg("all %d requests that may be open at Mailchimp at the same time "
								   "are taken",
								   connection->max_connections),
							errhint("Try again in a moment, or see max_connections of "
									"mc_alter_connection.")));
		doze(Min(left, SLOT_LOOK_MS));
	}
}

/* Nobody knows whether it is over there: no word of an answer came. */
static bool
may_still_run(const McHttpRequest *request)
{
	return request->sent && request->status == 0;
}

static TimestampTz
may_run_until(void)
{
	return TimestampTzPlusMilliseconds(mc_clock_now(), MAY_STILL_RUN_MS);
}

static McReply *
ask_once(const McConnection *connection, const char *method, const char *path, const char *body,
		 TimestampTz deadline)
{
	McHttpRequest request = {0};
	int slot = wait_for_slot(connection, deadline);

	request.method = method;
	request.url = psprintf("%s%s", connection->base_url, path);
	request.api_key = connection->api_key;
	request.body = body;
	request.body_len = body != NULL ? strlen(body) : 0;
	request.connect_timeout_ms = mc_connect_timeout;
	request.timeout_ms = Max(Min(remaining_ms(deadline), mc_request_timeout), 1);
	request.max_response = (size_t) mc_max_response * 1024;
	mc_slot_expect(slot, may_run_until());
	PG_TRY();
	{
		mc_http_perform(&request);
	}
	PG_CATCH();
	{
		mc_slot_haunt(slot, may_run_until());
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (may_still_run(&request))
		mc_slot_haunt(slot, may_run_until());
	else
		mc_slot_release(slot);
	return mc_reply_read(&request);
}

McReply *
mc_ask(const McConnection *connection, const char *method, const char *path, const char *body,
	   TimestampTz deadline)
{
	for (long pause_ms = 1000;; pause_ms *= 2)
	{
		McReply *reply = ask_once(connection, method, path, body, deadline);
		TimestampTz until = GetCurrentTimestamp();
		long wait_ms = pause_ms + until % (pause_ms / 4); /* spread by what is as good as random */

		if (reply->outcome != MC_REFUSED && reply->status != 429)
			return reply;
		wait_ms = Max(wait_ms, reply->retry_after_s * 1000L);
		if (wait_ms >= remaining_ms(deadline))
			return reply;
		until = TimestampTzPlusMilliseconds(until, wait_ms);
		while ((wait_ms = remaining_ms(until)) > 0)
			doze(wait_ms);
	}
}

McReply *
mc_ask_logged(const McConnection *connection, const char *kind, int32 audience_id,
			  const char *method, const char *path, const char *body, TimestampTz deadline)
{
	TimestampTz started_at = mc_clock_now();
	TimestampTz begin = GetCurrentTimestamp();
	McReply *reply = mc_ask(connection, method, path, body, deadline);
	double seconds = (double) (GetCurrentTimestamp() - begin) / USECS_PER_SEC;
	McArg audience = mc_arg_int4(audience_id);

	audience.isnull = audience_id == 0;
	MC_SQL("SELECT mailchimp_sync.log_asked($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
		   mc_arg_text(connection->name), mc_arg_text(kind), audience, mc_arg_text(method),
		   mc_arg_text(path), mc_arg_int4(reply->status),
		   mc_arg_text(mc_outcome_name(reply->outcome)), mc_arg_text(reply->title),
		   mc_arg_text(reply->detail), mc_arg_time(started_at),
		   mc_arg_datum(FLOAT8OID, Float8GetDatum(seconds)));
	return reply;
}

bool
mc_reply_ok(const McReply *reply)
{
	return reply->outcome == MC_ANSWERED && reply->status >= 200 && reply->status <= 299 &&
		   reply->json != NULL;
}

static int
reply_sqlstate(const McReply *reply)
{
	if (reply->outcome == MC_REFUSED || reply->status == 429)
		return ERRCODE_TOO_MANY_CONNECTIONS;
	if (reply->outcome != MC_ANSWERED)
		return ERRCODE_CONNECTION_FAILURE;
	if (reply->status == 401)
		return ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION;
	if (reply->status == 403)
		return ERRCODE_INSUFFICIENT_PRIVILEGE;
	return ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
}

static const char *
reply_hint(const McReply *reply)
{
	if (reply->outcome == MC_REFUSED || reply->status == 429)
		return "Other programs may use the same Mailchimp user. Try again in a few minutes.";
	if (reply->outcome != MC_ANSWERED || reply->status >= 500)
		return "Look at Mailchimp's status page and at this server's way to the internet.";
	if (reply->status == 401)
		return "Make a key at Mailchimp under Account > Extras > API keys and give it to mc_connect.";
	if (reply->status == 403)
		return "The Mailchimp user of the key needs the role owner, admin or manager.";
	return NULL;
}

/* Mailchimp's title, ours where it did not speak. */
static const char *
reply_message(const McReply *reply)
{
	switch (reply->outcome)
	{
		case MC_ANSWERED:
			return psprintf("Mailchimp: %s", reply->title != NULL ? reply->title : "no title");
		case MC_REFUSED:
			return "Mailchimp refuses requests at the moment";
		case MC_NOT_SENT:
			return "could not reach Mailchimp";
		case MC_DOUBT:
			break;
	}
	return "no usable answer from Mailchimp";
}

void
mc_reply_raise(const McReply *reply)
{
	const char *hint = reply_hint(reply);

	ereport(ERROR, (errcode(reply_sqlstate(reply)), errmsg_internal("%s", reply_message(reply)),
					reply->detail != NULL && reply->detail[0] != '\0'
						? errdetail_internal("%s", reply->detail)
						: 0,
					hint != NULL ? errhint("%s", hint) : 0));
	pg_unreachable();
}
