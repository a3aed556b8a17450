/*-------------------------------------------------------------------------
 *
 * opt_out.c
 *	  Mailchimp was told of an opt-out, or asked to ask somebody (see carry.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
opt_out_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;

	if (reply->status < 300)
		MC_SQL("SELECT mailchimp_sync.opt_out_done($1, $2)", mc_arg_int8(unit->inflight_id),
			   mc_json_text_arg(reply->json, "status"));
	else if (reply->status == 404) /* who is not there is not mailed */
		MC_SQL("SELECT mailchimp_sync.opt_out_done($1, NULL)", mc_arg_int8(unit->inflight_id));
	else
		MC_SQL("SELECT mailchimp_sync.opt_out_refused($1, $2, $3)", mc_arg_int8(unit->inflight_id),
			   mc_arg_text(reply->title), mc_arg_text(reply->detail));
}

const McKind mc_opt_out_kind = {.name = "opt_out", .spare = 0, .apply = opt_out_apply};
