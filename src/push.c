/*-------------------------------------------------------------------------
 *
 * push.c
 *	  What came back from a request that carried contacts (see push.sql).
 *
 * The reply to POST /lists/{list_id} is 200 even where members failed: members
 * that were created or updated come back as they are now, the others in
 * errors[]. A 4xx means that the whole request was refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
accept_members(McUnit *unit, const cJSON *members)
{
	if (cJSON_GetArraySize(members) == 0)
		return;
	MC_SQL("SELECT mailchimp_sync.tags_seen($1, $2, $3)", mc_arg_int8(unit->inflight_id),
		   mc_json_column(members, "id"), mc_json_column(members, "tags"));
	MC_SQL("SELECT mailchimp_sync.push_accepted($1, $2, $3, $4, $5, $6, $7, $8)",
		   mc_arg_int8(unit->inflight_id), mc_json_column(members, "id"),
		   mc_json_column(members, "email_address"), mc_json_column(members, "status"),
		   mc_json_column(members, "contact_id"), mc_json_column(members, "merge_fields"),
		   mc_json_column(members, "tags"), mc_json_column(members, "last_changed"));
}

static void
push_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;
	const cJSON *created = cJSON_GetObjectItemCaseSensitive(reply->json, "new_members");
	const cJSON *updated = cJSON_GetObjectItemCaseSensitive(reply->json, "updated_members");
	const cJSON *errors = cJSON_GetObjectItemCaseSensitive(reply->json, "errors");

	if (reply->status >= 400)
	{
		MC_SQL("SELECT mailchimp_sync.push_rejected($1, $2, $3, $4)",
			   mc_arg_int8(unit->inflight_id), mc_arg_int4(reply->status),
			   mc_arg_text(reply->title), mc_arg_text(reply->detail));
		MC_SQL("SELECT mailchimp_sync.push_absent($1)", mc_arg_int8(unit->inflight_id));
		return;
	}
	accept_members(unit, created);
	accept_members(unit, updated);
	MC_SQL("SELECT mailchimp_sync.push_refused($1, $2, $3, $4, $5, $6)",
		   mc_arg_int8(unit->inflight_id), mc_json_column(errors, "email_address"),
		   mc_json_column(errors, "error_code"), mc_json_column(errors, "error"),
		   mc_json_column(errors, "field"), mc_json_column(errors, "field_message"));
	MC_SQL("SELECT mailchimp_sync.push_unmentioned($1, $2 || $3, $4)",
		   mc_arg_int8(unit->inflight_id), mc_json_column(created, "id"),
		   mc_json_column(updated, "id"), mc_json_column(errors, "email_address"));
	MC_SQL("SELECT mailchimp_sync.push_absent($1)", mc_arg_int8(unit->inflight_id));
	MC_SQL("SELECT mailchimp_sync.audience_works(f.audience_id) FROM mailchimp_sync.inflight f "
		   "WHERE f.inflight_id = $1",
		   mc_arg_int8(unit->inflight_id));
}

const McKind mc_push_kind = {.name = "push", .bulk = true, .apply = push_apply};
