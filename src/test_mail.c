/*-------------------------------------------------------------------------
 *
 * test_mail.c
 *	  Mailchimp sends a test mail, or refuses to (see test_mail.sql).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine.h"
#include "mailchimp_sync.h"

static void
test_mail_apply(McUnit *unit)
{
	const McReply *reply = unit->reply;

	if (reply->status < 300)
		MC_SQL("SELECT mailchimp_sync.test_mail_done($1)", mc_arg_int8(unit->inflight_id));
	else
		MC_SQL("SELECT mailchimp_sync.test_mail_refused($1, $2, $3, $4)",
			   mc_arg_int8(unit->inflight_id), mc_arg_int4(reply->status),
			   mc_arg_text(reply->title), mc_arg_text(reply->detail));
}

const McKind mc_test_mail_kind = {.name = "test_mail", .spare = 0, .apply = test_mail_apply};
