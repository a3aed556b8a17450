/*-------------------------------------------------------------------------
 *
 * rename.c
 *	  A member has moved to another address, or was refused to (see rename.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
rename_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;

	/* 404: nobody is there under the old address, so the new one is subscribed as any other */
	if (reply->status < 300 || reply->status == 404)
		MC_SQL("SELECT mailchimp_sync.rename_done($1, $2, $3, $4)", mc_arg_int8(unit->inflight_id),
			   mc_arg_bool(reply->status != 404), mc_json_text_arg(reply->json, "email_address"),
			   mc_json_text_arg(reply->json, "status"));
	else
		MC_SQL("SELECT mailchimp_sync.rename_refused($1, $2, $3)", mc_arg_int8(unit->inflight_id),
			   mc_arg_text(reply->title), mc_arg_text(reply->detail));
}

const McKind mc_rename_kind = {.name = "rename", .spare = MC_SPARE_BULK, .apply = rename_apply};
