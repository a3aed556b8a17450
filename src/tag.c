/*-------------------------------------------------------------------------
 *
 * tag.c
 *	  A tag was taken away from members, or its segment looked for (see tag.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
search_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;
	const cJSON *tags;

	if (reply->status >= 300)
	{
		MC_SQL("SELECT mailchimp_sync.tag_unsearched($1, $2, $3, $4)",
			   mc_arg_int8(unit->inflight_id), mc_arg_int4(reply->status),
			   mc_arg_text(reply->title), mc_arg_text(reply->detail));
		return;
	}
	/* without any, nobody has the tag, so what is no page must not pass for an empty one */
	tags = mc_json_needed_array(reply->json, "tags");
	MC_SQL("SELECT mailchimp_sync.tag_found($1, $2, $3::bigint[])", mc_arg_int8(unit->inflight_id),
		   mc_json_column(tags, "name"), mc_json_column(tags, "id"));
}

static void
tag_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;

	if (!unit->writes)
		search_apply(unit);
	else if (reply->status == 404)
		MC_SQL("SELECT mailchimp_sync.tag_missing($1)", mc_arg_int8(unit->inflight_id));
	else if (reply->status >= 300)
		MC_SQL("SELECT mailchimp_sync.tag_refused($1, $2, $3)", mc_arg_int8(unit->inflight_id),
			   mc_arg_text(reply->title), mc_arg_text(reply->detail));
	else
	{
		(void) mc_json_needed(mc_json_int8_arg(reply->json, "total_removed"), "total_removed");
		MC_SQL("SELECT mailchimp_sync.tag_done($1)", mc_arg_int8(unit->inflight_id));
	}
}

const McKind mc_tag_kind = {.name = "tag", .spare = MC_SPARE_BULK, .apply = tag_apply};
