/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  What came back about leaves that Mailchimp does in its own time (see batch.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "engine.h"
#include "mailchimp_sync.h"

typedef struct Answer
{
	const McReply *reply;
	McArg batch;
} Answer;

static void
rest(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.batch_rests($1, $2, $3, NULL)", a->batch,
		   mc_arg_text(a->reply->title), mc_arg_text(a->reply->detail));
}

static void
started(const Answer *a)
{
	const cJSON *json = a->reply->json;

	if (a->reply->status >= 300)
		MC_SQL("SELECT mailchimp_sync.batch_refused($1, interval '10 minutes')", a->batch);
	else
		MC_SQL("SELECT mailchimp_sync.batch_started($1, $2, $3)", a->batch,
			   mc_json_needed(mc_json_text_arg(json, "id"), "id"),
			   mc_json_needed(mc_json_text_arg(json, "submitted_at"), "submitted_at"));
}

static void
sought(const Answer *a)
{
	const cJSON *batches;

	if (a->reply->status >= 300)
	{
		rest(a);
		return;
	}
	/* a short page ends the search, so what is no page must not pass for an empty one */
	batches = mc_json_needed_array(a->reply->json, "batches");
	MC_SQL("SELECT mailchimp_sync.batch_sought($1, $2, $3, $4, $5)", a->batch,
		   mc_json_column(batches, "id"), mc_json_column(batches, "status"),
		   mc_json_column(batches, "total_operations"), mc_json_column(batches, "submitted_at"));
}

static void
looked(const Answer *a)
{
	const cJSON *json = a->reply->json;

	if (a->reply->status < 300)
		MC_SQL("SELECT mailchimp_sync.batch_looked($1, $2, $3::integer, $4)", a->batch,
			   mc_json_needed(mc_json_text_arg(json, "status"), "status"),
			   mc_json_needed(mc_json_int8_arg(json, "total_operations"), "total_operations"),
			   mc_json_needed(mc_json_text_arg(json, "submitted_at"), "submitted_at"));
	else if (a->reply->status == 404)
		MC_SQL("SELECT mailchimp_sync.batch_looked($1, NULL, NULL, NULL)", a->batch);
	else
		rest(a);
}

/* Stopped now, or over or gone before: whichever it was, an operation may still be on its way. */
static void
stopped(const Answer *a)
{
	MC_SQL("SELECT mailchimp_sync.batch_go($1, 'verify', mailchimp_sync.ghost_life())", a->batch);
}

static void
verified(const Answer *a)
{
	if (a->reply->status >= 300)
		rest(a);
	else
		MC_SQL("SELECT mailchimp_sync.batch_verified($1, $2)", a->batch,
			   mc_json_column(mc_json_needed_array(a->reply->json, "members"), "id"));
}

/* by the phase of the request, which is the question it asked */
static const struct
{
	const char *phase;
	void (*apply)(const Answer *a);
} answers[] = {{"start", started},
			   {"seek", sought},
			   {"look", looked},
			   {"stop", stopped},
			   {"verify", verified}};

static void
batch_apply(McUnit *unit)
{
	Answer a = {.reply = unit->reply};

	if (MC_SQL("SELECT f.versions[1] FROM mailchimp_sync.inflight f WHERE f.inflight_id = $1",
			   mc_arg_int8(unit->inflight_id)) == 0)
		elog(ERROR, "request " INT64_FORMAT " is not in flight", unit->inflight_id);
	a.batch = mc_arg_int8(mc_result_int8(0, 1, NULL));
	for (size_t i = 0; i < lengthof(answers); i++)
	{
		if (strcmp(answers[i].phase, unit->phase) == 0)
		{
			answers[i].apply(&a);
			return;
		}
	}
	elog(ERROR, "question \"%s\" about a batch has no line in the table of answers", unit->phase);
}

const McKind mc_batch_kind = {.name = "batch", .spare = MC_SPARE_BULK, .apply = batch_apply};
