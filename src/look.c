/*-------------------------------------------------------------------------
 *
 * look.c
 *	  Is a member that a walk of its list has missed there (see look.sql)?
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
look_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;
	/* an array around what the reply owns, which nobody has to free */
	const cJSON one = {.type = cJSON_Array, .child = reply->json};

	if (reply->status == 404)
		MC_SQL("SELECT mailchimp_sync.look_gone($1, $2)", mc_arg_int8(unit->inflight_id),
			   mc_arg_time(unit->started_at));
	else if (reply->status >= 400)
		MC_SQL("SELECT mailchimp_sync.look_failed($1, NULL, $2, $3, NULL)",
			   mc_arg_int8(unit->inflight_id), mc_arg_text(reply->title),
			   mc_arg_text(reply->detail));
	else
	{
		(void) mc_json_needed(mc_json_text_arg(reply->json, "id"), "id");
		MC_SQL("SELECT mailchimp_sync.look_seen($1, $2, $3, $4, $5, $6, $7, $8, $9)",
			   mc_arg_int8(unit->inflight_id), mc_arg_time(unit->started_at),
			   mc_json_column(&one, "id"), mc_json_column(&one, "email_address"),
			   mc_json_column(&one, "status"), mc_json_column(&one, "contact_id"),
			   mc_json_column(&one, "unsubscribe_reason"), mc_json_column(&one, "last_changed"),
			   mc_json_column(&one, "merge_fields"));
	}
}

const McKind mc_look_kind = {.name = "look", .spare = MC_SPARE_BACKGROUND, .apply = look_apply};
