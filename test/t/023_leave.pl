# Contacts leave Mailchimp and come back (R58, R74, R77, D9, D10, D16, D20, N5): a row that is deleted, a rule that holds no more, a
# link flag that is off; by each policy; with requests under way and answers that are lost.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 30);
my ($node, $sim, $list) = @$crm{qw(node sim list)};
my $delete = 'DELETE /lists/{list_id}/members/{subscriber_hash}';

$crm->sync;
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# Three ways out, archived by default (R57, R58, R74, D9)
# -----------------------------------------------------------------------------------------------------------------

$crm->ann("DELETE FROM crm.candidate WHERE id = 1; UPDATE crm.candidate SET active = false WHERE id = 2;
	UPDATE crm.candidate SET linked = false WHERE id = 3; UPDATE crm.candidate SET email = NULL WHERE id = 4");
is($crm->max("SELECT action, contact_key, email, reason FROM mc_preview('people') ORDER BY 2"),
	"leave|1|c1\@crm.test|its row is gone\nleave|2|c2\@crm.test|the rule does not take it\nleave|3|c3\@crm.test|its link flag is off\nleave|4||has no e-mail address",
	'N4, D22: the preview of who leaves');

# What psql says besides the result
sub notices
{
	my ($role, $sql) = @_;
	my (undef, undef, $notices) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
	return $notices =~ s/^psql:<stdin>:\d+: //mgr;
}

like(notices('max', "SELECT mc_preview('people')"), qr/^NOTICE:  4 members would be archived\nDETAIL:  What archived members chose at Mailchimp stays with them/,
	'R59: and what they lose by that');
is($crm->max("SELECT after FROM mc_preview('people') WHERE contact_key = '1'"), '{"status": "archived"}', 'what they would be');
$crm->run;
is($crm->requests, join(', ', ("$delete 204") x 4), 'one request each');
is(join(' ', map { $crm->shown("c$_\@crm.test") =~ /^(\w+)/ } 1 .. 5), 'archived archived archived archived subscribed', 'R58, R74, D9: archived');
is(join(', ', map { $crm->state($_) } 1 .. 4), "outside|its row is gone, outside|the rule does not take it, not_linked|its link flag is off, refused|has no e-mail address",
	'and what they are now');
is($crm->status, 'in_sync 26 not_linked 1 outside 2 refused 1', 'the states add up');
is($crm->rita("SELECT string_agg(email || ' ' || status || ' ' || active, ', ' ORDER BY email) FROM mc_member WHERE status = 'archived'"),
	'c1@crm.test archived false, c2@crm.test archived false, c3@crm.test archived false, c4@crm.test archived false', 'mc_member');
$crm->sync;
is($crm->requests, '', 'once');

# And back: who was subscribed when we archived them is subscribed again, with today's data.
$crm->ann("INSERT INTO crm.candidate VALUES (1, 'Back', 'L1', 'c1\@crm.test', 2, true, true, '{g1}');
	UPDATE crm.candidate SET active = true, linked = true, email = 'c' || id || '\@crm.test', first_name = 'Back' WHERE id IN (2, 3, 4)");
$crm->run;
is($crm->pushed, '4', 'one request for all who come back');
is(join(' ', map { $crm->shown("c$_\@crm.test") } 1 .. 4), 'subscribed|Back|g1 subscribed|Back|g2 subscribed|Back|g0 subscribed|Back|g1', 'subscribed again');
is($crm->status, 'in_sync 30', 'all in sync');

# Who had left by their own hand, or was never confirmed, is not.
$sim->post('/_sim/act', { list => $list, email => 'c5@crm.test', action => 'unsubscribe' });
$crm->ann("UPDATE crm.candidate SET active = false WHERE id IN (5, 6)");
$crm->run;
$sim->post('/_sim/act', { list => $list, email => 'c6@crm.test', action => 'compliance' });
$crm->ann("UPDATE crm.candidate SET active = true WHERE id IN (5, 6)");
$crm->run;
isnt($crm->member('c5@crm.test')->{status}, 'subscribed', 'D10: who unsubscribed before we archived them is not subscribed again');
isnt($crm->member('c6@crm.test')->{status}, 'subscribed', 'D10: nor is an address in a compliance state');
like($crm->state(6), qr/^refused\|.*compliance/i, 'with the words of Mailchimp');

# The same, passed over in silence.
$sim->post('/_sim/config', { compliance => 'ignore' });
$crm->ann("UPDATE crm.candidate SET active = false WHERE id IN (7, 8)");
$crm->run;
$sim->post('/_sim/act', { list => $list, email => 'c7@crm.test', action => 'compliance' });
$crm->requests;
$crm->ann("UPDATE crm.candidate SET active = true, first_name = 'Loud' WHERE id IN (7, 8)");
$crm->run;
is($crm->shown('c8@crm.test'), 'subscribed|Loud|g2', 'a reply that does not mention everybody');
is($crm->state(8), 'in_sync|', 'who is mentioned is done');
$crm->later(60), $crm->run for 1 .. 4;
is($crm->state(7), q{refused|Mailchimp's answers do not mention it}, 'who is not, is asked for five times');
is($crm->failure(7), q{push|c7@crm.test|no answer|Mailchimp's answers do not mention it|5|t}, 'and then a failure');
is($crm->pushed, '2 1 1 1 1', 'it does not hold up anybody');
$sim->post('/_sim/config', { compliance => 'errors' });

# -----------------------------------------------------------------------------------------------------------------
# Other policies
# -----------------------------------------------------------------------------------------------------------------

sub made { return notices('ann', "BEGIN; SELECT mc_drop_audience('people');
	SELECT mc_create_audience('people', 'main', 'Customers', 'candidate', on_leave => '$_[0]'); ROLLBACK") }
like(made('unsubscribe'), qr/^NOTICE:  who leaves audience "people" is unsubscribed from now on\nDETAIL:  .* act of their own/, 'R59: so it does when an audience is made');
is(made('archive'), '', 'nothing is to be said of the usual one');
like(notices('ann', q{SELECT mc_alter_audience('people', '{"on_leave": "unsubscribe"}')}),
	qr/^NOTICE:  who leaves audience "people" is unsubscribed from now on\nDETAIL:  .* act of their own/, 'R59: the policy tells what it means');
$crm->ann('UPDATE crm.candidate SET active = false WHERE id = 10');
like(notices('max', "SELECT mc_preview('people')"), qr/^NOTICE:  1 member would be unsubscribed\nDETAIL:  .* act of their own/, 'R59: so does the preview');
$crm->run;
is(notices('max', "SELECT mc_preview('people')"), '', 'without leaves there is nothing to say');
is($crm->shown('c10@crm.test'), 'unsubscribed|F10|g1', 'on_leave unsubscribe');
is($crm->state(10), 'outside|the rule does not take it', 'it is outside');
$crm->ann("UPDATE crm.candidate SET active = true WHERE id = 10");
$crm->run;
is($crm->shown('c10@crm.test') . ' ' . $crm->state(10), 'unsubscribed|F10|g1 inactive|unsubscribed at Mailchimp', 'an unsubscribed one does not come back by itself');
is($crm->rita("SELECT mc_is_opted_out('candidate', 10)"), 'f', 'but has not opted out');

$crm->requests;
like(notices('ann', q{SELECT mc_alter_audience('people', '{"on_leave": "keep"}')}), qr/^NOTICE:  who leaves audience "people" stays a member from now on\nDETAIL:  They still get/,
	'R59: keep');
$crm->ann('UPDATE crm.candidate SET active = false WHERE id = 11');
$crm->run;
is($crm->requests . ' ' . $crm->shown('c11@crm.test') . ' ' . $crm->state(11), ' subscribed|F11|g2 outside|the rule does not take it', 'on_leave keep: nothing happens there');
$crm->ann("UPDATE crm.candidate SET active = true, first_name = 'Again' WHERE id = 11");
$crm->run;
is($crm->shown('c11@crm.test'), 'subscribed|Again|g2', 'and it comes back as an update');
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_leave": "archive"}')});

# Who is not there any more, was never there, or left already.
$sim->post('/_sim/act', { list => $list, email => 'c12@crm.test', action => 'delete_permanent' });
$sim->post('/_sim/act', { list => $list, email => 'c13@crm.test', action => 'archive' });
$sim->post('/_sim/config', { delete_archived => 'refuse' });
$crm->run;
$crm->requests;
$crm->ann("UPDATE crm.candidate SET active = false WHERE id IN (12, 13)");
$crm->run;
is($crm->status =~ /pending/ ? 'pending' : 'done', 'done', '404 and 405: there is nothing left to do');
is($crm->rita("SELECT count(*) FROM mc_failure WHERE work = 'leave'"), 0, 'and no failure');
$crm->ann('UPDATE crm.candidate SET active = true WHERE id = 13');
$crm->run;
is($crm->shown('c13@crm.test') =~ s/\|.*//r . ' ' . $crm->state(13), 'archived inactive|archived at Mailchimp',
	'D10: whom somebody had archived there before us does not come back by our rule');
$sim->post('/_sim/config', { delete_archived => 'ok' });

# Where Mailchimp archives an archived member once more without a word, that somebody else had done it can be known before alone.
$sim->post('/_sim/act', { list => $list, email => 'c28@crm.test', action => 'archive' });
$crm->requests;
$crm->ann('UPDATE crm.candidate SET active = false WHERE id = 28');
$crm->run;
is($crm->requests . ' ' . $crm->state(28), ' outside|the rule does not take it', 'D20: whom somebody has archived since we looked last is not archived by us');
$crm->ann('UPDATE crm.candidate SET active = true WHERE id = 28');
$crm->run;
is($crm->shown('c28@crm.test') =~ s/\|.*//r . ' ' . $crm->state(28), 'archived inactive|archived at Mailchimp', 'D10: so our rule does not bring it back');

# Archived by us; since then a colleague unsubscribed it and cleared it away, all between two reads.
$crm->ann("INSERT INTO crm.candidate (id, email) VALUES (903, 'c903\@crm.test'), (904, 'c904\@crm.test')");
$crm->run;
$crm->ann('UPDATE crm.candidate SET active = false WHERE id IN (903, 904)');
$crm->run;
$crm->later(700);
$crm->run;
$crm->act('c903', 'admin_unsubscribe');
$crm->act('c903', 'archive');
$crm->later(700);
$crm->run;
$crm->ann('UPDATE crm.candidate SET active = true WHERE id IN (903, 904)');
$crm->run;
is(join(' ', map { $crm->shown("c$_\@crm.test") =~ s/\|.*//r } 903, 904), 'archived subscribed', 'D10: whom somebody archived once more does not come back');
is($crm->state(903), 'inactive|archived at Mailchimp', 'since nobody knows what it was before');

# Mailchimp says no: its words, and later again.
my $fault = $sim->fault(method => 'DELETE', path => '/members/', fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->ann("UPDATE crm.candidate SET active = false WHERE id = 14");
$crm->run;
$crm->later(10), $crm->run if $crm->shown('c14@crm.test') !~ /^archived/;
is($crm->shown('c14@crm.test'), 'archived|F14|g2', 'a leave that is refused is tried again');
is($crm->rita("SELECT count(*) FROM mc_failure WHERE work = 'leave'"), 0, 'and its failure goes');
$fault = $sim->fault(method => 'DELETE', path => '/members/', times => 100, fault => { type => 'status', status => 400, json => JSON::PP::true });
$crm->ann('UPDATE crm.candidate SET active = false WHERE id = 16');
$crm->max('CALL mc_run()');
is($crm->rita("SELECT count(*) FROM mc_failure WHERE work = 'leave' AND contact_key = '16'"), 1, 'one that is refused again and again is a failure');
$crm->ann('UPDATE crm.candidate SET active = true WHERE id = 16');
$crm->run;
is($crm->state(16) . ' ' . $crm->failure(16), 'in_sync| ', 'until the contact is wanted again');
$sim->delete("/_sim/faults/$fault");

# -----------------------------------------------------------------------------------------------------------------
# While a request is under way
# -----------------------------------------------------------------------------------------------------------------

# Leaving while its push is under way: the leave waits for the answer.
$crm->requests;
$crm->ann("UPDATE crm.candidate SET first_name = 'pushed' WHERE id = 15");
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
my $run = $node->session(as => 'max');
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
$crm->ann("UPDATE crm.candidate SET active = false WHERE id = 15");
$node->wait_until("SELECT detail = 'the rule does not take it' FROM mc_contact_state WHERE contact_key = '15'");
$sim->release;
$run->query('');
is($crm->requests, "POST /lists/{list_id} 200, $delete 204", 'leaves while its push is under way: afterwards');
is($crm->shown('c15@crm.test'), 'archived|pushed|g0', 'and is out');

# Its push fails, and meanwhile it was decided that it leaves, and it has unsubscribed: that has to be read before it is archived. The
# other one's leave makes that the statuses were read a moment ago, but for that of whom a request was under way to.
$crm->ann("INSERT INTO crm.candidate (id, email) VALUES (901, 'c901\@crm.test'), (902, 'c902\@crm.test')");
$crm->run;
$crm->ann("UPDATE crm.candidate SET first_name = 'failed' WHERE id = 901");
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before');
$sim->fault(method => 'POST', path => '^/lists/[^/]+$', fault => { type => 'status', status => 500, json => JSON::PP::true });
McTest::begin($run, 'CALL mc_run();');
$sim->wait_held;
$crm->ann('DELETE FROM crm.candidate WHERE id IN (901, 902)');
$node->wait_until("SELECT detail = 'its row is gone' FROM mc_contact_state WHERE contact_key = '901'");
$crm->act('c901', 'unsubscribe');
$node->wait_until("SELECT state = 'outside' FROM mc_contact_state WHERE contact_key = '902'");
$sim->release;
$run->query('');
is(($crm->shown('c901@crm.test') =~ s/\|.*//r) . ' ' . $crm->rita("SELECT mc_is_opted_out('candidate', 901)"), 'unsubscribed t',
	'D10: who leaves after a push that failed is not archived before the status was read');

# Coming back while the leave is under way.
for my $when ('before', 'after')
{
	$crm->ann("UPDATE crm.candidate SET active = false WHERE id = 16");
	$sim->hold(method => 'DELETE', path => '/members/', when => $when);
	McTest::begin($run, 'CALL mc_run();');
	$sim->wait_held;
	$crm->ann("UPDATE crm.candidate SET active = true WHERE id = 16");
	$node->wait_until("SELECT value = '0' FROM mc_status WHERE item = 'events'");
	$sim->release;
	$run->query('');
	is($crm->shown('c16@crm.test') . ' ' . $crm->state(16), 'subscribed|F16|g1 in_sync|', "comes back while the leave is under way ($when)");
}

# -----------------------------------------------------------------------------------------------------------------
# Doubt: a leave waits for every ghost, and so does who comes back
# -----------------------------------------------------------------------------------------------------------------

# The push is lost, then the contact leaves: not before the old request can no longer land.
$crm->requests;
$crm->setting(request_timeout => '3s');
$sim->fault(method => 'POST', path => '^/lists/[^/]+$', times => 1, fault => 'hang');
$crm->ann("UPDATE crm.candidate SET first_name = 'lost' WHERE id = 17");
McTest::begin($run, 'CALL mc_run();');
$node->wait_until("SELECT count(*) = 1 FROM mc_request WHERE outcome = 'doubt'");
$crm->ann("UPDATE crm.candidate SET active = false WHERE id = 17");
$run->query('');
$crm->run;
is(join(' ', grep { /DELETE/ } split /, /, $crm->requests), '', 'no leave while a push may still land');
is($crm->state(17), 'pending|the rule does not take it', 'it waits');
$crm->later(131);
$crm->run;
is($crm->shown('c17@crm.test') =~ s/\|.*//r, 'archived', 'afterwards it leaves');

# A leave without an answer, that happened or not; the contact still wants out, or in again.
for my $case ([ 'hang', 18 ], [ 'reset_after', 19 ], [ 'html_504_after', 20 ], [ 'cut', 21 ])
{
	my ($name, $id) = @$case;
	for my $back (0, 1)
	{
		my $who = $back ? $id + 5 : $id;
		$fault = $sim->fault(method => 'DELETE', path => '/members/', fault => $name);
		$crm->ann("UPDATE crm.candidate SET active = false WHERE id = $who");
		$crm->run;
		$sim->delete("/_sim/faults/$fault");
		my $doubt = $node->query("SELECT count(*) FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL AND kind = 'leave'");
		$crm->ann("UPDATE crm.candidate SET active = true, first_name = 'in' WHERE id = $who") if $back;
		$crm->run;
		$crm->requests;
		$crm->later(131);
		$crm->run;
		is($doubt . ' ' . $crm->shown("c$who\@crm.test") =~ s/\|g\d$//r . ' ' . $crm->state($who) =~ s/\|.*//r,
			$back ? '1 subscribed|in in_sync' : "1 archived|F$who outside", "$name: " . ($back ? 'back in' : 'out for good'));
	}
}
$run->quit;
is($crm->rita("SELECT state FROM mc_connection"), 'ok', 'the connection is well');
is($node->query('SELECT count(*) FROM mailchimp_sync.inflight'), 0, 'nothing is left under way');

done_testing();
