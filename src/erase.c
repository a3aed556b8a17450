/*-------------------------------------------------------------------------
 *
 * erase.c
 *	  Mailchimp has deleted an address permanently, or refused to (see erase.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
erase_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;

	/* 404: it is not there, or not any more */
	if (reply->status < 300 || reply->status == 404)
		MC_SQL("SELECT mailchimp_sync.erase_done($1)", mc_arg_int8(unit->inflight_id));
	else
		MC_SQL("SELECT mailchimp_sync.erase_rests($1, $2, $3, NULL)",
			   mc_arg_int8(unit->inflight_id), mc_arg_text(reply->title),
			   mc_arg_text(reply->detail));
}

const McKind mc_erase_kind = {.name = "erase", .spare = MC_SPARE_BULK, .apply = erase_apply};
