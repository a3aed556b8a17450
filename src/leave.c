/*-------------------------------------------------------------------------
 *
 * leave.c
 *	  A contact has left Mailchimp, or was refused to (see leave.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
leave_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;

	/* 404: it is not there; 405: it is archived already, after doubt mostly */
	if (reply->status < 300 || reply->status == 404 || reply->status == 405)
		MC_SQL("SELECT mailchimp_sync.leave_done($1, $2, $3)", mc_arg_int8(unit->inflight_id),
			   mc_arg_bool(reply->status != 404), mc_arg_bool(reply->status == 405));
	else
		MC_SQL("SELECT mailchimp_sync.leave_refused($1, $2, $3)", mc_arg_int8(unit->inflight_id),
			   mc_arg_text(reply->title), mc_arg_text(reply->detail));
}

const McKind mc_leave_kind = {.name = "leave", .spare = MC_SPARE_BULK, .apply = leave_apply};
