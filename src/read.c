/*-------------------------------------------------------------------------
 *
 * read.c
 *	  A page of members that changed at Mailchimp, or of all of them (see read.sql and pull.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
read_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;
	const cJSON *members;
	McArg audience;
	McArg whole = mc_arg_bool(strcmp(unit->phase, "walk") == 0);

	if (MC_SQL("SELECT f.audience_id FROM mailchimp_sync.inflight f WHERE f.inflight_id = $1",
			   mc_arg_int8(unit->inflight_id)) == 0)
		elog(ERROR, "request " INT64_FORMAT " is not in flight", unit->inflight_id);
	audience = mc_arg_int4(mc_result_int8(0, 1, NULL));
	if (reply->status >= 300)
	{
		MC_SQL("SELECT mailchimp_sync.read_refused($1, $2, $3, $4, $5)", audience, whole,
			   mc_arg_int4(reply->status), mc_arg_text(reply->title), mc_arg_text(reply->detail));
		return;
	}
	/* a short page ends the walk, so what is no page must not pass for an empty one */
	members = mc_json_needed_array(reply->json, "members");
	MC_SQL("SELECT mailchimp_sync.read_seen($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", audience,
		   whole, mc_arg_time(unit->started_at), mc_json_column(members, "id"),
		   mc_json_column(members, "email_address"), mc_json_column(members, "status"),
		   mc_json_column(members, "contact_id"), mc_json_column(members, "unsubscribe_reason"),
		   mc_json_column(members, "last_changed"), mc_json_column(members, "merge_fields"));
}

const McKind mc_read_kind = {.name = "read", .spare = MC_SPARE_BULK, .apply = read_apply};
