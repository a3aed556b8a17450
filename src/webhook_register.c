/*-------------------------------------------------------------------------
 *
 * webhook_register.c
 *	  mc_register_webhook: Mailchimp is told whom to tell (see webhook.sql).
 *
 * Mailchimp shows the secret of its signatures once, when the webhook is made,
 * and takes each URL once for a list. So an old one of ours is never found out
 * about but replaced, also one that an answer got lost about or that a ROLLBACK left
 * behind: it is known by its URL without the secret. It goes when the new one is
 * there, but for one of the very same URL, which has to go before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "ask.h"

PG_FUNCTION_INFO_V1(mc_register_webhook);

typedef struct Registering
{
	char *audience;
	int32 audience_id;
	McConnection *connection;
	char *path;		  /* of the list's webhooks */
	char *webhook_id; /* that we know of, or NULL */
	char *base;
	char *url;	/* NULL: none is wanted any more */
	char *body; /* that makes it */
	TimestampTz deadline;
} Registering;

static void
find_target(Registering *r, const char *url)
{
	char *connection;

	MC_SQL("SELECT t.audience_id, t.connection, t.list_id, t.webhook_id, t.base, t.url, t.body"
		   " FROM mailchimp_sync.webhook_target($1, $2) t",
		   mc_arg_text(r->audience), mc_arg_text(url));
	r->audience_id = (int32) mc_result_int8(0, 1, NULL);
	connection = mc_result_text(0, 2);
	r->path = psprintf("/lists/%s/webhooks", mc_result_text(0, 3));
	r->webhook_id = mc_result_text(0, 4);
	r->base = mc_result_text(0, 5);
	r->url = mc_result_text(0, 6);
	r->body = mc_result_text(0, 7);
	r->connection = mc_connection_load(connection);
	r->deadline = mc_ask_deadline();
}

static McReply *
ask(const Registering *r, const char *method, const char *path, const char *body)
{
	return mc_ask_logged(r->connection, "webhook", r->audience_id, method, path, body, r->deadline);
}

/* Those that are to go, in two lists: before the new one is made, and after. */
static void
find_replaced(const Registering *r, List **before, List **after)
{
	McReply *reply = ask(r, "GET", psprintf("%s?fields=webhooks.id,webhooks.url", r->path), NULL);
	const cJSON *webhooks;
	uint64 n;

	if (!mc_reply_ok(reply))
		mc_reply_raise(reply);
	webhooks = mc_json_needed_array(reply->json, "webhooks");
	n = MC_SQL("SELECT w.id, w.is_same FROM mailchimp_sync.replaced_webhooks($1, $2, $3, $4, $5) w",
			   mc_arg_text(r->webhook_id), mc_arg_text(r->base), mc_arg_text(r->url),
			   mc_json_column(webhooks, "id"), mc_json_column(webhooks, "url"));
	*before = *after = NIL;
	for (uint64 i = 0; i < n; i++)
	{
		char *id = mc_result_text(i, 1);

		if (mc_result_bool(i, 2))
			*before = lappend(*before, id);
		else
			*after = lappend(*after, id);
	}
}

/*
 * One that is gone already is as good. What raises takes the secret of the new one along, if that is
 * there already.
 */
static void
remove_webhooks(const Registering *r, const List *ids, bool may_raise)
{
	ListCell *cell;

	foreach(cell, ids)
	{
		McReply *reply =
			ask(r, "DELETE", psprintf("%s/%s", r->path, (const char *) lfirst(cell)), NULL);

		if (reply->outcome == MC_ANSWERED && (reply->status < 300 || reply->status == 404))
			continue;
		if (may_raise)
			mc_reply_raise(reply);
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("the webhook before is still there at Mailchimp, beside the new one"),
				 errdetail_internal("%s: %s", reply->title ? reply->title : "no title",
									reply->detail ? reply->detail : ""),
				 errhint("What it tells is refused. Remove it there, or register once more.")));
	}
}

static void
create_webhook(const Registering *r)
{
	McReply *reply = ask(r, "POST", r->path, r->body);
	char *id;
	char *signing_secret;

	if (!mc_reply_ok(reply))
		mc_reply_raise(reply);
	id = mc_json_text(reply->json, "id");
	signing_secret = mc_json_text(reply->json, "signing_secret");
	if (id == NULL || signing_secret == NULL)
		ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
						errmsg("Mailchimp does not sign what it tells this webhook"),
						errdetail("Its answer has no signing_secret."),
						errhint("Remove the webhook there; without a signature anybody could send "
								"in Mailchimp's name.")));
	MC_SQL("SELECT mailchimp_sync.webhook_registered($1, $2, $3, $4, $5)", mc_arg_text(r->audience),
		   mc_arg_text(id), mc_arg_text(r->base), mc_arg_text(r->url), mc_arg_text(signing_secret));
}

/* mc_register_webhook(_audience, _url), behind the gate: as the extension's owner */
Datum
mc_register_webhook(PG_FUNCTION_ARGS)
{
	Registering r = {0};
	List *before;
	List *after;

	PreventCommandIfReadOnly("mc_register_webhook()");
	if (PG_ARGISNULL(0))
		elog(ERROR, "the gate lets no null through");
	r.audience = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SPI_connect();
	find_target(&r, PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	find_replaced(&r, &before, &after);
	remove_webhooks(&r, before, true);
	if (r.url != NULL)
		create_webhook(&r);
	remove_webhooks(&r, after, r.url == NULL);
	if (r.url == NULL)
		MC_SQL("SELECT mailchimp_sync.webhook_removed($1)", mc_arg_text(r.audience));
	SPI_finish();
	PG_RETURN_VOID();
}
