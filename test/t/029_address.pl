# Addresses that change and change hands (R65, R66, R75, D10, D13, N5): the member moves and keeps its status and
# history, in chains, exchanges and circles too; nobody inherits another's consent; what is written differently is the same.

use strict;
use warnings;
use JSON::PP;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 40, audience => ", on_unsubscribe => 'inactive'");
$crm->sync;
$crm->requests;
my %before = $crm->members;

sub act { my ($id, $action, %more) = @_; $crm->{sim}->post('/_sim/act', { list => $crm->{list}, email => $id =~ /@/ ? $id : "c$id\@crm.test", action => $action, %more }) }

# Moves an address: by one statement, or several in one transaction.
sub change { $crm->ann(join ';', 'BEGIN', @_, 'COMMIT') }

sub set_address { my ($id, $email) = @_; return "UPDATE crm.candidate SET email = '$email' WHERE id = $id" }

# Which member (as numbered by Mailchimp) has an address now, with its status and first name.
sub who
{
	my ($email) = @_;
	my $m = $crm->member($email);
	my ($was) = grep { $before{$_}{web_id} == ($m->{web_id} // 0) } keys %before;
	return join '|', $was // 'new', $m->{status} // 'none', $m->{merge_fields}{FNAME} // '';
}

# What the moves since the last call were answered.
sub moves { return join ' ', map { $_->{status} } grep { $_->{method} eq 'PATCH' } $crm->journal }

# Reads what changed at Mailchimp.
sub look_there { $crm->later(660); $crm->run; $crm->requests }

# -----------------------------------------------------------------------------------------------------------------
# One address
# -----------------------------------------------------------------------------------------------------------------

change(set_address(1, 'new1@crm.test'));
is($crm->rita("SELECT 1") . $crm->max("SELECT action, email, before ->> 'email', after ->> 'email' FROM mc_preview('people')"),
	'1update|new1@crm.test|c1@crm.test|new1@crm.test', 'R75: a changed address is an update');
$crm->run;
is($crm->requests, 'PATCH /lists/{list_id}/members/{subscriber_hash} 200, POST /lists/{list_id} 200', 'a changed address costs one request, and its share of the next push');
is(who('new1@crm.test'), 'c1@crm.test|subscribed|F1', 'the member moves, with its history');
is($crm->rita("SELECT email, source, contact_key, status FROM mc_member WHERE contact_key = '1'"), 'new1@crm.test|candidate|1|subscribed', 'mc_member follows');
is($crm->state(1), 'in_sync|', 'and is in step');

change("UPDATE crm.candidate SET email = '  NEW1\@Crm.Test ' WHERE id = 1");
$crm->run;
is($crm->requests, 'POST /lists/{list_id} 200', 'R65: other case and blanks are the same address, written differently');
is(who('NEW1@Crm.Test'), 'c1@crm.test|subscribed|F1', 'the same member');

change(set_address(1, 'c1@crm.test'), set_address(1, 'other1@crm.test'), set_address(1, 'NEW1@Crm.Test'));
$crm->run;
is($crm->requests, '', 'there and back in one transaction is nothing');

# Who unsubscribed stays so under another address (D10).
act(2, 'unsubscribe');
look_there();
is($crm->state(2), 'inactive|unsubscribed at Mailchimp', 'R76: unsubscribed there');
change(set_address(2, 'new2@crm.test'));
$crm->run;
is(who('new2@crm.test'), 'c2@crm.test|unsubscribed|F2', 'D10: an unsubscribed member moves as it is');
is($crm->state(2), 'inactive|unsubscribed at Mailchimp', 'and stays inactive');
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# Addresses that change hands within a transaction
# -----------------------------------------------------------------------------------------------------------------

# An exchange, one of whom had unsubscribed: each keeps its own status.
act(3, 'unsubscribe');
look_there();
change(set_address(3, 'c4@crm.test'), set_address(4, 'c3@crm.test'));
$crm->run;
is(who('c4@crm.test') . ' ' . who('c3@crm.test'), 'c3@crm.test|unsubscribed|F3 c4@crm.test|subscribed|F4', 'two exchange their addresses: each member moves along, with its status');
is($crm->state(3) . ' ' . $crm->state(4), 'inactive|unsubscribed at Mailchimp in_sync|', 'nobody inherits a consent');
is($crm->requests, join(', ', ('PATCH /lists/{list_id}/members/{subscriber_hash} 200') x 3, 'POST /lists/{list_id} 200'), 'an exchange costs three moves, none refused');

# A circle of three, and one that waits for an address of it.
change(set_address(5, 'c6@crm.test'), set_address(6, 'c7@crm.test'), set_address(7, 'c5@crm.test'));
$crm->run;
is(join(' ', map { who("c$_\@crm.test") } 5 .. 7), 'c7@crm.test|subscribed|F7 c5@crm.test|subscribed|F5 c6@crm.test|subscribed|F6', 'a circle of three');
is(moves(), '200 200 200 200', 'with one that steps aside');

# A chain: the last one moves first.
change(set_address(10, 'free10@crm.test'), set_address(9, 'c10@crm.test'), set_address(8, 'c9@crm.test'));
$crm->run;
is(join(' ', map { who($_) } qw(c9@crm.test c10@crm.test free10@crm.test)), 'c8@crm.test|subscribed|F8 c9@crm.test|subscribed|F9 c10@crm.test|subscribed|F10', 'a chain moves from its end');
is(moves(), '200 200 200', 'none refused');

# A long chain: its first ones do not wait for all the others.
$crm->ann("INSERT INTO crm.candidate SELECT g, 'F' || g, 'L', 'c' || g || '\@crm.test', 1, true, true, '{}' FROM generate_series(1001, 1120) g");
$crm->run;
$crm->ann("SELECT mc_approve('people')");
$crm->run;
$crm->ann("SELECT mc_pause('main')");
change("UPDATE crm.candidate SET email = 'c' || id + 1 || '\@crm.test' WHERE id BETWEEN 1001 AND 1120");
$crm->run;
is($crm->{node}->query("SELECT string_agg(contact_key, ' ' ORDER BY contact_key) FROM mailchimp_sync.contact c
	WHERE contact_key IN ('1001', '1021', '1022', '1120') AND action = 'rename' AND mailchimp_sync.waits_for_itself(c)"), '1001 1021', 'who waits for a hundred others steps aside');
$crm->ann("SELECT mc_resume('main')");
$crm->run;
is(join(' ', map { who("c$_\@crm.test") } 1001, 1002, 1121), 'new|none| new|subscribed|F1001 new|subscribed|F1120', 'a long chain arrives');
is($crm->rita("SELECT count(*) FROM mc_contact_state WHERE contact_key::int BETWEEN 1001 AND 1120 AND state = 'in_sync'"), 120, 'as a whole');
$crm->requests;

# Freed by one whose row goes, taken by another: the member there is taken over, the former address is given up.
change('DELETE FROM crm.candidate WHERE id = 11', set_address(12, 'c11@crm.test'));
$crm->run;
is(who('c11@crm.test') . ' ' . who('c12@crm.test'), 'c11@crm.test|subscribed|F12 c12@crm.test|archived|F12', 'an address of a deleted row is taken over');
is($crm->state(11) . ' ' . $crm->state(12), 'outside|its row is gone in_sync|', 'states');
is(($crm->costs)[0], '1 DELETE /lists/{list_id}/members/{subscriber_hash}, 1 POST /lists/{list_id}, 1 POST /lists/{list_id}/segments/{segment_id}',
	'which costs a leave and a push, and the former contact\'s tag is taken away');
is($crm->tags(11), 'g0', 'D16: the member has the tags of the contact');

# ... by one who had unsubscribed: the former status holds.
act(14, 'unsubscribe');
look_there();
change('DELETE FROM crm.candidate WHERE id = 13', set_address(14, 'c13@crm.test'));
$crm->run;
is($crm->state(14), 'inactive|unsubscribed at Mailchimp under its former address', 'D10: an unsubscribed person does not come back by taking over an address');
is(who('c13@crm.test') . ' ' . who('c14@crm.test'), 'c13@crm.test|archived|F13 c14@crm.test|unsubscribed|F14', 'nobody is mailed under either');
$crm->requests;

# Freed by an address change, taken by a new row, which comes first by its key.
act(15, 'unsubscribe');
look_there();
change(set_address(15, 'moved15@crm.test'), "INSERT INTO crm.candidate VALUES (-15, 'Heir', 'H', 'c15\@crm.test', 1, true, true, '{}')");
$crm->run;
is(who('moved15@crm.test') . ' ' . who('c15@crm.test'), 'c15@crm.test|unsubscribed|F15 new|subscribed|Heir', 'a new row with an address that is being freed waits until the member has moved');
is($crm->state(15) . ' ' . $crm->state(-15), 'inactive|unsubscribed at Mailchimp in_sync|', 'each its own');
$crm->requests;

# A deleted row that comes back with another key is the same member.
change('DELETE FROM crm.candidate WHERE id = 16', "INSERT INTO crm.candidate VALUES (116, 'Again', 'A', 'c16\@crm.test', 1, true, true, '{}')");
$crm->run;
is(who('c16@crm.test'), 'c16@crm.test|subscribed|Again', 'another row with the same address takes the member over');
is(($crm->costs)[0], '1 POST /lists/{list_id}, 1 POST /lists/{list_id}/segments/{segment_id}', 'nobody leaves in between');
is($crm->tags(16), '', 'D16: and its tags are those of the new row');

# -----------------------------------------------------------------------------------------------------------------
# Addresses that Mailchimp has already
# -----------------------------------------------------------------------------------------------------------------

# A foreign member has the new address (D15: it is adopted, with its status).
act('taken17@crm.test', 'add', merge_fields => { FNAME => 'Foreign' }, tags => ['theirs']);
act('taken18@crm.test', 'add');
act('taken18@crm.test', 'unsubscribe');
change(set_address(17, 'taken17@crm.test'), set_address(18, 'taken18@crm.test'));
$crm->run;
is($crm->shown('taken17@crm.test') . ' ' . $crm->shown('c17@crm.test'), 'subscribed|F17|g2,theirs archived|F17|g2', 'D15: a member who was there before is adopted');
is($crm->state(17), 'in_sync|', 'and in step');
is($crm->shown('taken18@crm.test') =~ s/\|.*//r, 'unsubscribed', 'D10: who had unsubscribed under the new address stays so');
is($crm->shown('c18@crm.test') =~ s/\|.*//r, 'archived', 'the former address is not mailed any more');
is($crm->state(18), 'inactive|unsubscribed at Mailchimp', 'inactive');
is($crm->rita('SELECT count(*) FROM mc_failure'), 0, 'nothing has failed');
$crm->requests;

# An address that is refused: the member stays, the contact waits with Mailchimp's words.
change(set_address(19, 'fake19@crm.test'));
$crm->run;
like($crm->failure(19), qr/^rename\|fake19\@crm\.test\|Invalid Resource\|.*looks fake or invalid.*\|1\|t$/, 'R62: an address that Mailchimp refuses');
change(set_address(19, 'fine19@crm.test'));
$crm->run;
is(who('fine19@crm.test') . ' ' . $crm->state(19) . ' ' . $crm->failure(19), 'c19@crm.test|subscribed|F19 in_sync| ', 'the next one works');
change(set_address(19, 'fake19b@crm.test'));
$crm->run;
change(set_address(19, 'fine19@crm.test'));
$crm->run;
is($crm->state(19) . ' ' . $crm->failure(19), 'in_sync| ', 'and so does the former one, of which nothing has failed then');
$crm->requests;

# -----------------------------------------------------------------------------------------------------------------
# Answers that are lost
# -----------------------------------------------------------------------------------------------------------------

for my $case ([ 20, 'reset_after' ], [ 22, 'reset_before' ], [ 24, 'hang_after' ], [ 26, 'cut' ])
{
	my ($id, $fault) = @$case;
	my ($a, $b) = ($id, $id + 1);

	$crm->setting(request_timeout => '3s') if $fault eq 'hang_after';
	$crm->{sim}->post('/_sim/faults', { method => 'PATCH', path => '/members/', nth => 1, times => 1, fault => $fault });
	change(set_address($a, "c$b\@crm.test"), set_address($b, "c$a\@crm.test"));
	$crm->run;
	$crm->later(140);
	$crm->run;
	$crm->later(140);
	$crm->run;
	is(who("c$a\@crm.test") . ' ' . who("c$b\@crm.test"), "c$b\@crm.test|subscribed|F$b c$a\@crm.test|subscribed|F$a", "$fault while one steps aside: both arrive");
	is($crm->state($a) . ' ' . $crm->state($b), 'in_sync| in_sync|', "$fault: in step");
}
is((grep { /moving/ } map { lc } keys %{ { $crm->members } }), 0, 'nobody is left aside');
is($crm->rita(q{SELECT count(*) FROM mc_member WHERE email LIKE '%moving%'}), 0, 'nor in our books');

# The answer is lost, the address changes once more meanwhile, or back: whoever had unsubscribed stays so, and nobody is left behind.
for my $case ([ 32, 'c32@crm.test' ], [ 33, 'third33@crm.test' ])
{
	my ($id, $then) = @$case;

	act($id, 'unsubscribe');
	$crm->{sim}->post('/_sim/faults', { method => 'PATCH', path => '/members/', nth => 1, times => 1, fault => 'reset_after' });
	change(set_address($id, "next$id\@crm.test"));
	$crm->run;
	change(set_address($id, $then));
	$crm->run;
	is($crm->state($id) =~ s/\|.*//r, 'pending', "$then: nobody knows yet where the member is");
	$crm->later(140);
	$crm->run;
	is(who($then) . ' ' . who("next$id\@crm.test"), "c$id\@crm.test|unsubscribed|F$id new|none|", "$then: it is found where the lost request brought it, and moves on");
	is($crm->state($id), 'inactive|unsubscribed at Mailchimp', "$then: and stays as it is");
}

# ... or it is there to stay: the status that was known goes along, and nothing is sent to it.
act(34, 'unsubscribe');
look_there();
$crm->{sim}->post('/_sim/faults', { method => 'PATCH', path => '/members/', nth => 1, times => 1, fault => 'reset_after' });
change(set_address(34, 'next34@crm.test'));
$crm->run;
$crm->later(140);
$crm->run;
is($crm->requests, join(', ', map { "PATCH /lists/{list_id}/members/{subscriber_hash} $_" } '-', 404), 'nobody under the former address');
is($crm->state(34) . ' ' . who('next34@crm.test'), 'inactive|unsubscribed at Mailchimp c34@crm.test|unsubscribed|F34', 'D10: who had unsubscribed is not subscribed as a new one');

# A leave, a new rule and an opt-out while one waits for the other.
my $held = $crm->{sim}->hold(method => 'PATCH', path => '/members/', when => 'after');
my $session = $crm->{node}->session(as => 'max');
change(set_address(30, 'c31@crm.test'), set_address(31, 'c30@crm.test'));
McTest::begin($session, 'CALL mc_run();');
$crm->{sim}->wait_held;
change('UPDATE crm.candidate SET active = false WHERE id = 30');
$crm->max(q{SELECT mc_opt_out('candidate', 31)});
$crm->{sim}->release(hold => $held);
$session->query('');
$session->quit;
$crm->run;
is((grep { $_->{status} eq 'subscribed' && $_->{email_address} =~ /c3[01]\@|moving/ } values %{ { $crm->members } }), 0, 'who left or opted out in the middle of an exchange is subscribed nowhere');
is($crm->state(30) . ' ' . $crm->state(31), 'outside|the rule does not take it opted_out|is in the opt-out group', 'states');
is($crm->rita('SELECT contacts = in_sync + pending + refused + conflict + opted_out + inactive + not_linked + not_allowed + outside AND pending = 0 FROM mc_audience_status'), 't', 'N8: the states add up');

# That somebody has unsubscribed can first be known by the move's answer: it counts as everywhere (R45, D11).
$crm->ann(q{SELECT mc_alter_audience('people', '{"on_unsubscribe": "opt_out"}')});
act(35, 'unsubscribe');
change(set_address(35, 'next35@crm.test'));
$crm->run;
is($crm->state(35), 'opted_out|is in the opt-out group', 'R45: who moves and turns out to have unsubscribed joins the opt-out group');
$crm->ann("INSERT INTO crm.candidate SELECT id, 'Heir', 'H', email, 1, true, true, '{}' FROM (VALUES (135, 'c35\@crm.test'), (136, 'next35\@crm.test')) v(id, email)");
$crm->run;
is(join(' ', map { $crm->state($_) } 135, 136), 'opted_out|is in the opt-out group opted_out|is in the opt-out group', 'D12: with the address that was unsubscribed, and with the one to which the member moved');
is(who('c35@crm.test') . ' ' . who('next35@crm.test'), 'new|none| c35@crm.test|unsubscribed|F35', 'nobody else is subscribed under either');

# A comparison makes no request (N5).
$crm->requests;
$crm->sync;
is($crm->requests, '', 'N5: a full comparison has nothing to do');

done_testing;
