/*-------------------------------------------------------------------------
 *
 * campaign_check.c
 *	  Asking Mailchimp now how a campaign is and what it still lacks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "ask.h"
#include "compat.h"
#include "engine.h"

PG_FUNCTION_INFO_V1(mc_look_there);

#define CAMPAIGN_PATH                                                                          \
	"/campaigns/%s?fields=status,recipients.segment_opts.saved_segment_id,recipients.list_id," \
	"settings.subject_line,settings.from_name,settings.reply_to"

/* NULL: there is no such thing at Mailchimp */
static const cJSON *
ask(const McConnection *connection, const char *path, TimestampTz deadline)
{
	const McReply *reply = mc_ask(connection, "GET", path, NULL, deadline);

	if (reply->outcome == MC_ANSWERED && reply->status == 404)
		return NULL;
	if (!mc_reply_ok(reply))
		mc_reply_raise(reply);
	return reply->json;
}

/* One that was sent lacks nothing any more. */
static bool
has_checklist(const cJSON *campaign)
{
	const char *status = mc_json_text(campaign, "status");

	return status != NULL && strcmp(status, "sending") != 0 && strcmp(status, "sent") != 0;
}

static Datum
make_row(FunctionCallInfo fcinfo, const cJSON *campaign, const cJSON *items)
{
	const McArg args[] = {
		mc_json_needed(mc_json_text_arg(campaign, "status"), "status"),
		mc_json_text_arg(campaign, "settings.subject_line"),
		mc_json_text_arg(campaign, "settings.from_name"),
		mc_json_text_arg(campaign, "settings.reply_to"),
		mc_json_text_arg(campaign, "recipients.list_id"),
		mc_json_text_arg(campaign, "recipients.segment_opts.saved_segment_id"),
		mc_json_column(items, "type"),
		mc_json_column(items, "heading"),
		mc_json_column(items, "details"),
	};
	Datum values[lengthof(args)];
	bool nulls[lengthof(args)];
	TupleDesc columns;

	for (size_t i = 0; i < lengthof(args); i++)
	{
		values[i] = args[i].value;
		nulls[i] = args[i].isnull;
	}
	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "look_there must return a row");
	return HeapTupleGetDatum(heap_form_tuple(columns, values, nulls));
}

/* look_there(connection, mailchimp_id): NULL if it is gone */
Datum
mc_look_there(PG_FUNCTION_ARGS)
{
	McConnection *connection = mc_connection_load(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char *id = text_to_cstring(PG_GETARG_TEXT_PP(1));
	TimestampTz deadline = mc_ask_deadline();
	const cJSON *campaign = ask(connection, psprintf(CAMPAIGN_PATH, id), deadline);
	const cJSON *items = NULL;

	if (campaign == NULL)
		PG_RETURN_NULL();
	if (has_checklist(campaign))
		items = mc_json_needed_array(
			ask(connection, psprintf("/campaigns/%s/send-checklist", id), deadline), "items");
	PG_RETURN_DATUM(make_row(fcinfo, campaign, items));
}
