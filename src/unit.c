/*-------------------------------------------------------------------------
 *
 * unit.c
 *	  One unit of work: claim, request, reply.
 *
 * A unit is claimed in a transaction that commits its "inflight" row before a
 * byte goes out, so that a crash at any later instant leaves a trace. The reply
 * is applied and the row deleted in one transaction; after doubt the row stays
 * as a ghost. Claiming and applying have error boundaries of their own: one bad
 * unit never stops the others, and a unit whose reply cannot be applied rests.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "engine.h"
#include "mailchimp_sync.h"
#include "slot.h"

/* after doubt a unit that may be sent again is, soon; in ms */
#define DOUBT_REST 1500
/* a reply that could not be applied: nothing will change at once */
#define ERROR_REST 60000

typedef struct Claim
{
	const McKind *kind;
	const McConnection *connection;
	McUnit *unit; /* filled in; inflight_id 0: nothing is due */
} Claim;

static void
make_request(McUnit *unit, const McConnection *connection, const char *body)
{
	McHttpRequest *http = &unit->http;

	http->context = unit->context;
	http->method = unit->method;
	http->url = psprintf("%s%s", connection->base_url, unit->path);
	http->api_key = pstrdup(connection->api_key);
	if (body != NULL)
	{
		http->body = pg_server_to_any(body, strlen(body), PG_UTF8);
		http->body_len = strlen(http->body);
	}
	http->connect_timeout_ms = mc_connect_timeout;
	http->timeout_ms = mc_request_timeout;
	http->max_response = (size_t) mc_max_response * 1024;
	http->owner = unit;
}

static void
claim(void *arg)
{
	Claim *c = arg;
	McUnit *unit = c->unit;
	char *query;
	MemoryContext old;

	query = psprintf(
		"INSERT INTO mailchimp_sync.inflight (kind, sent_at, connection, method, path, body, writes, "
		"audience_id, campaign_id, phase, source_ids, contact_keys, email_hashes, versions, hashes) "
		"SELECT $1, mailchimp_sync.clock(), w.* FROM mailchimp_sync.%s_next($2) AS w "
		"RETURNING inflight_id, method, path, body, writes, phase, "
		"sent_at + mailchimp_sync.ghost_life()",
		c->kind->name);
	if (MC_SQL(query, mc_arg_text(c->kind->name), mc_arg_text(c->connection->name)) == 0)
		return;
	old = MemoryContextSwitchTo(unit->context);
	unit->method = mc_result_text(0, 2);
	unit->path = mc_result_text(0, 3);
	unit->writes = mc_result_bool(0, 5);
	unit->phase = mc_result_text(0, 6);
	make_request(unit, c->connection, mc_result_text(0, 4));
	MemoryContextSwitchTo(old);
	unit->inflight_id = mc_result_int8(0, 1, NULL);
	/* with synchronous_commit = off a crash could lose the row, but not what the request did */
	if (unit->writes)
		ForceSyncCommit();
	mc_slot_expect(unit->slot, mc_result_time(0, 7));
}

/*
 * In a transaction: the next unit of this kind that is due, or NULL. The slot is
 * the unit's from then on. What raises is a defect of the kind, not of a
 * contact; it is reported, result says so, and the caller tries again later.
 */
McUnit *
mc_unit_claim(const McKind *kind, const McConnection *connection, int slot, MemoryContext parent,
			  McClaim *result)
{
	MemoryContext context =
		AllocSetContextCreate(parent, "mailchimp_sync unit", ALLOCSET_SMALL_SIZES);
	McUnit *unit = MemoryContextAllocZero(context, sizeof(McUnit));
	Claim c = {.kind = kind, .connection = connection, .unit = unit};
	ErrorData *error;

	unit->kind = kind;
	unit->connection = MemoryContextStrdup(context, connection->name);
	unit->slot = slot;
	unit->context = context;
	unit->started_at = mc_clock_now();
	*result = MC_CLAIMED;
	if (!mc_try(claim, &c, &error))
	{
		unit->inflight_id = 0;
		*result = mc_is_contention(error) ? MC_CLAIM_BLOCKED : MC_CLAIM_FAILED;
	}
	if (*result == MC_CLAIM_FAILED)
		ereport(WARNING, (errcode(error->sqlerrcode),
						  errmsg("could not prepare work of kind \"%s\" for connection \"%s\": %s",
								 kind->name, connection->name, mc_loggable(error)),
						  mc_loggable_context(error)));
	if (unit->inflight_id == 0)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	return unit;
}

static TimestampTz
retry_at(const McReply *reply)
{
	int rest_ms = DOUBT_REST;

	if (reply->retry_after_s > 0 && reply->outcome != MC_DOUBT)
		rest_ms = Max(rest_ms, reply->retry_after_s * 1000);
	return TimestampTzPlusMilliseconds(mc_clock_now(), rest_ms);
}

/* Is the answer about this unit, or about who asks, how often, and Mailchimp's own health? */
static bool
is_about_unit(const McUnit *unit)
{
	const McReply *reply = unit->reply;

	if (reply->status == 403 && !(unit->kind->may_be_forbidden && unit->writes))
		return false;
	return reply->outcome == MC_ANSWERED && reply->status < 500 && reply->status != 401 &&
		   reply->status != 429;
}

static void
unit_failed(McUnit *unit, const char *outcome, const char *title, const char *detail,
			TimestampTz retry)
{
	MC_SQL(psprintf("SELECT mailchimp_sync.%s_failed($1, $2, $3, $4, $5)", unit->kind->name),
		   mc_arg_int8(unit->inflight_id), mc_arg_text(outcome), mc_arg_text(title),
		   mc_arg_text(detail), mc_arg_time(retry));
}

/* What may still land stays as a ghost; its time is also that of its slot, which find_ghosts relies on. */
static void
end_inflight(McUnit *unit)
{
	if (unit->reply->outcome == MC_DOUBT && unit->writes)
		MC_SQL("UPDATE mailchimp_sync.inflight SET doubt_at = mailchimp_sync.clock(), "
			   "ghost_until = sent_at + mailchimp_sync.ghost_life() WHERE inflight_id = $1 "
			   "RETURNING ghost_until",
			   mc_arg_int8(unit->inflight_id));
	else
		MC_SQL("DELETE FROM mailchimp_sync.inflight WHERE inflight_id = $1 "
			   "RETURNING sent_at + mailchimp_sync.ghost_life()",
			   mc_arg_int8(unit->inflight_id));
	if (unit->reply->outcome == MC_DOUBT)
		unit->ghost_until = mc_result_time(0, 1);
}

static void
log_request(McUnit *unit, const char *outcome, const char *title, const char *detail)
{
	const McReply *reply = unit->reply;

	MC_SQL("SELECT mailchimp_sync.log_request($1, $2, $3, $4, $5, $6, $7)",
		   mc_arg_int8(unit->inflight_id), mc_arg_int4(reply->status), mc_arg_text(outcome),
		   mc_arg_text(title), mc_arg_text(detail), mc_arg_time(unit->started_at),
		   mc_arg_datum(FLOAT8OID, Float8GetDatum(unit->http.seconds)));
}

static void
apply(void *arg)
{
	McUnit *unit = arg;
	const McReply *reply = unit->reply;
	const char *outcome = mc_outcome_name(reply->outcome);

	log_request(unit, outcome, reply->title, reply->detail);
	MC_SQL("SELECT mailchimp_sync.connection_replied($1, $2, $3, $4, $5)",
		   mc_arg_text(unit->connection), mc_arg_text(outcome), mc_arg_int4(reply->status),
		   mc_arg_text(reply->detail ? reply->detail : reply->title),
		   mc_arg_int4(reply->retry_after_s));
	if (is_about_unit(unit))
		unit->kind->apply(unit);
	else
		unit_failed(unit, outcome, reply->title, reply->detail, retry_at(reply));
	end_inflight(unit);
}

static void
read_reply(void *arg)
{
	McUnit *unit = arg;
	MemoryContext old = MemoryContextSwitchTo(unit->context);

	unit->reply = mc_reply_read(&unit->http);
	MemoryContextSwitchTo(old);
}

/* There is an answer, and nobody knows what it says. */
static void
note_unreadable(McUnit *unit, const ErrorData *error)
{
	unit->reply = MemoryContextAllocZero(unit->context, sizeof(McReply));
	unit->reply->outcome = MC_DOUBT;
	unit->reply->status = unit->http.status;
	unit->reply->retry_after_s = -1;
	unit->reply->detail = MemoryContextStrdup(unit->context, error->message);
}

typedef struct Failure
{
	McUnit *unit;
	const ErrorData *error;
} Failure;

static void
apply_failure(void *arg)
{
	static const char *const outcome = "error";
	static const char *const title = "the reply could not be applied";
	Failure *f = arg;

	log_request(f->unit, outcome, title, mc_loggable(f->error));
	unit_failed(f->unit, outcome, title, f->error->message,
				TimestampTzPlusMilliseconds(mc_clock_now(), ERROR_REST));
	end_inflight(f->unit);
}

/*
 * In a transaction: applies the reply. False: somebody's open transaction was in
 * the way, nothing was changed and the same reply is to be applied again later.
 * If anything else raises, the unit rests with the reason; if even that cannot be
 * noted, its row stays under way, which keeps its contacts from everybody until
 * the engine starts anew.
 */
bool
mc_unit_finish(McUnit *unit)
{
	ErrorData *error;
	ErrorData *second;
	Failure f = {.unit = unit};

	if (unit->reply == NULL && !mc_try(read_reply, unit, &error))
		note_unreadable(unit, error);
	if (mc_try(apply, unit, &error))
		return true;
	if (mc_is_contention(error))
		return false;
	ereport(WARNING, (errcode(error->sqlerrcode),
					  errmsg("could not apply the reply to a request of kind \"%s\": %s",
							 unit->kind->name, mc_loggable(error)),
					  mc_loggable_context(error)));
	f.error = error;
	if (!mc_try(apply_failure, &f, &second))
		ereport(WARNING, (errcode(second->sqlerrcode),
						  errmsg("could not note the failure of a request of kind \"%s\": %s",
								 unit->kind->name, mc_loggable(second))));
	return true;
}
